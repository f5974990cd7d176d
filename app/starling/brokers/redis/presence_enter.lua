-- Adds a client where fewer than a number of others are; followed by presence_keep.lua, which then adds it.
--
-- ARGV  as there, and at the end the number
-- Returns -1 for it where there is no room.

local most = tonumber(table.remove(ARGV))
if redis.call('HLEN', clients) - redis.call('HEXISTS', clients, ARGV[2]) >= most then
  return { -1 }
end
