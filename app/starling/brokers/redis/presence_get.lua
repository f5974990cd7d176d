-- Returns the version of a channel's clients, and the clients, each followed by its entry; nothing where they are too many.
--
-- ARGV  1 clients at most   2 bytes of clients and entries at most   (-1: any number)
--       3 the version that the caller knows (empty: none), got with the same limits   4 how many clients it has
--       5 random text, for a new version
-- Where the caller knows the clients as they are, the version alone is returned.
--
-- Whatever changes the clients removes the version, and the next read gives them a new one. It ends after five seconds,
-- since a process of an earlier release does not remove it; the number shows most of its changes at once.

local known = redis.call('GET', version)
if known and known == ARGV[3] and redis.call('HLEN', clients) == tonumber(ARGV[4]) then
  return known
end

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
if not known and #found > 0 then
  -- Where the memory of Redis is full there is no version, and the clients are read all the same.
  local kept = redis.pcall('SET', version, ARGV[5], 'PX', 5000)
  known = not kept.err and ARGV[5]
end
return { known or '', found }
