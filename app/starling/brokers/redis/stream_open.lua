-- Opens an append-only stream; one that is there already is left as it is.
--
-- KEYS  1 <prefix>:meta:{<channel>}   2 <prefix>:stream:{<channel>}
-- ARGV  1 kind   2 ms that it lives after its last use (0: for ever)   3 random text without spaces, for a new epoch
--       4 producer (empty: none)   5 its epoch (empty: the next one)
--       6 1 if the stream is interrupted when its producer is silent
--       7 media type (empty: none)   8 end of its life in ms since 1970 (empty: none)
--       9 key of this opening (empty: none): the same key again takes no further epoch
-- Returns { outcome, epoch of the producer, 1 if this made it, fields of the stream … } as stream_append.lua does.

local function text(number)
  return string.format('%.0f', number)
end

local meta, stream = KEYS[1], KEYS[2]
local FIELDS = { 'k', 's', 'o', 'e', 'a', 'n', 'w', 'f', 't', 'c', 'x' }

local function describe(outcome, producer_epoch, created)
  local found = redis.call('HMGET', meta, unpack(FIELDS))
  local answer = { outcome, text(producer_epoch), created and 1 or 0 }
  for index = 1, #FIELDS do
    answer[3 + index] = found[index] or ''
  end
  return answer
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local known = redis.call('HMGET', meta, 'k', 'e', 'o', 's', 'x', 't')
local kind, created = known[1], false
if not kind then
  local run = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
  if not run then
    return redis.error_reply('ERR INFO replication has no master_replid, so history cannot be kept safely')
  end
  local fresh = not known[2] or known[3] ~= '0'
  -- First the command that Redis denies when its memory is full: after another write it is never denied.
  redis.call('HSET', meta, 'e', fresh and ARGV[3] or known[2], 'o', '0', 'r', run, 'k', ARGV[1], 's', 'open',
    'a', '0', 'n', '0', 't', ARGV[2])
  redis.call('DEL', stream)
  if ARGV[7] ~= '' then
    redis.call('HSET', meta, 'c', ARGV[7])
  end
  if ARGV[8] ~= '' then
    redis.call('HSET', meta, 'x', ARGV[8])
  end
  created = true
elseif kind ~= ARGV[1] then
  return describe('other_kind', 0)
end

local producer_epoch = 0
if ARGV[4] ~= '' then
  local field = 'p:' .. ARGV[4]
  local stands = redis.call('HGET', meta, field)
  local known_epoch = stands and tonumber(string.match(stands, '^(%d+)'))
  local key_field = 'q:' .. ARGV[4]
  local again = known_epoch and ARGV[9] ~= '' and redis.call('HGET', meta, key_field) == ARGV[9]
  producer_epoch = tonumber(ARGV[5]) or (known_epoch and known_epoch + (again and 0 or 1) or 0)
  if known_epoch and producer_epoch < known_epoch then
    return describe('zombie', known_epoch)
  end
  local closed = known[4] == 'complete' or known[4] == 'failed' or known[4] == 'cancelled'
  if not closed and (not known_epoch or producer_epoch > known_epoch) then
    if not known_epoch and tonumber(redis.call('HGET', meta, 'pc') or '0') >= 100 then
      return describe('many_producers', 0)
    end
    if redis.call('HSET', meta, field, text(producer_epoch) .. ' -1') == 1 then
      redis.call('HINCRBY', meta, 'pc', 1)
    end
    if ARGV[9] ~= '' then
      redis.call('HSET', meta, key_field, ARGV[9])
    else
      redis.call('HDEL', meta, key_field)
    end
  end
end
if ARGV[6] == '1' then
  redis.call('HSET', meta, 'l', text(now))
end

local ends, ttl = redis.call('HGET', meta, 'x'), redis.call('HGET', meta, 't')
for _, key in ipairs(KEYS) do
  if ends then
    redis.call('PEXPIRE', key, math.max(1, tonumber(ends) - now))
  elseif ttl and tonumber(ttl) > 0 then
    redis.call('PEXPIRE', key, ttl)
  else
    redis.call('PERSIST', key)
  end
end
return describe('done', producer_epoch, created)
