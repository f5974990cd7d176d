-- Returns the clients of a channel, each followed by its entry; nothing where they are too many.
--
-- ARGV  1 clients at most   2 bytes of clients and entries at most   (-1: any number)

local most, bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
if most >= 0 and redis.call('HLEN', clients) > most then
  return false
end
local found = redis.call('HGETALL', clients)
if bytes >= 0 then
  local size = 0
  for _, text in ipairs(found) do
    size = size + #text
  end
  if size > bytes then
    return false
  end
end
return found
