-- Sends a message to every process, unless one with the same idempotency key was sent within 5 minutes.
--
-- KEYS  1 <prefix>:idem:{<channel>}:<key>
-- ARGV  1 <prefix>:<channel>   2 message
-- Returns 1, or 0 for a repetition.

if redis.call('SET', KEYS[1], '', 'NX', 'PX', 300000) then
  redis.call('PUBLISH', ARGV[1], ARGV[2])
  return 1
end
return 0
