-- Removes an append-only stream and gives the channel a new epoch, which its subscribers are notified of.
--
-- KEYS  1 <prefix>:meta:{<channel>}   2 <prefix>:stream:{<channel>}
-- ARGV  1 <prefix>:<channel>, in a cluster <prefix>:{<channel>}   2 random text without spaces, for the new epoch
--       3 ms to keep a position without a publication   4 the epoch that the stream must have, empty for any
-- Returns 1, or 0 where there was no stream, or none of that epoch.

local meta, stream = KEYS[1], KEYS[2]
if not redis.call('HGET', meta, 'k') then
  return 0
end
if ARGV[4] ~= '' and redis.call('HGET', meta, 'e') ~= ARGV[4] then
  return 0
end
local run = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
if not run then
  return redis.error_reply('ERR INFO replication has no master_replid, so history cannot be kept safely')
end
redis.call('DEL', meta, stream)
redis.call('HSET', meta, 'e', ARGV[2], 'o', '0', 'r', run)
redis.call('PEXPIRE', meta, ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local publish = string.find(ARGV[1], '{', 1, true) and 'SPUBLISH' or 'PUBLISH'
redis.call(publish, ARGV[1], 'p ' .. ARGV[2] .. ' 0 0\n' .. string.format('%.0f', now) .. ' 0\nnull')
return 1
