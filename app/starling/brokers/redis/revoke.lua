-- Keeps revocations until they expire.
--
-- KEYS  1 <prefix>:{revoked}:entries, a hash   2 <prefix>:{revoked}:ends, a sorted set of its fields
-- ARGV  1 the time now, in ms since 1970   then for each: name, content, end in ms
-- Returns the version: how many were ever added. It stands in the hash under an empty name.

local entries, ends = KEYS[1], KEYS[2]

for index = 2, #ARGV, 3 do
  if redis.call('ZADD', ends, 'GT', 'CH', ARGV[index + 2], ARGV[index]) > 0 then
    redis.call('HSET', entries, ARGV[index], ARGV[index + 1])
    redis.call('HINCRBY', entries, '', 1)
  end
end

-- After what Redis denies when its memory is full: after another write it is never denied.
local over = redis.call('ZRANGEBYSCORE', ends, '-inf', ARGV[1], 'LIMIT', 0, 1000)
if #over > 0 then
  redis.call('HDEL', entries, unpack(over))
  redis.call('ZREM', ends, unpack(over))
end
return redis.call('HGET', entries, '') or '0'
