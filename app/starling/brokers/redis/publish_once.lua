-- Sends a message to every process, unless one with the same idempotency key was sent within 5 minutes.
--
-- KEYS  1 <prefix>:idem:{<channel>}:<key>
-- ARGV  1 <prefix>:<channel>, in a cluster <prefix>:{<channel>}   2 message
-- Returns { offset, epoch } of the message that was sent, both text: "0" and "", because it is not in a history.

-- Called without keys it does nothing, and Redis knows it from then on.
if #KEYS == 0 then
  return
end

local known = redis.call('SET', KEYS[1], '0 ', 'NX', 'GET', 'PX', 300000)
if known then
  local offset, epoch = string.match(known, '^(%d+) (.*)$')
  return { offset, epoch }
end
-- No channel has a brace in its name. In a cluster a message stays within the shard that has the channel's slot.
local publish = string.find(ARGV[1], '{', 1, true) and 'SPUBLISH' or 'PUBLISH'
redis.call(publish, ARGV[1], ARGV[2])
return { '0', '' }
