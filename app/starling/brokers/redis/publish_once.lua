-- Sends a message to every process, unless one with the same idempotency key was sent within 5 minutes.
--
-- KEYS  1 <prefix>:idem:{<channel>}:<key>
-- ARGV  1 <prefix>:<channel>, in a cluster <prefix>:{<channel>}   2 message
-- Returns { offset, epoch } of the message that was sent, both text: "0" and "", because it is not in a history.

local function send_once(idempotency, channel, message)
  local known = redis.call('SET', idempotency, '0 ', 'NX', 'GET', 'PX', 300000)
  if known then
    return string.match(known, '^(%d+) (.*)$')
  end
  -- No channel has a brace in its name. In a cluster a message stays within the shard that has the channel's slot.
  local publish = string.find(channel, '{', 1, true) and 'SPUBLISH' or 'PUBLISH'
  redis.call(publish, channel, message)
  return '0', ''
end

-- Called without keys it does nothing, and Redis knows it from then on.
if #KEYS > 0 then
  return { send_once(KEYS[1], unpack(ARGV)) }
end
