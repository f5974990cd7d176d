-- Adds a chunk to an append-only stream, closes it, or both, and sends it to every process, in one step.
--
-- KEYS  1 <prefix>:meta:{<channel>}   2 <prefix>:stream:{<channel>}
-- ARGV  1 <prefix>:<channel>, in a cluster <prefix>:{<channel>}
--       2 data (empty: no chunk)   3 units   4 bytes of content   5 bytes that the stream may hold   6 kind (empty: any)
--       7 producer (empty: none)   8 its epoch   9, 10 first and last sequence (empty: it only shows that it lives)
--       11 status afterwards (empty: open)   12 reason   13 final JSON   14 further tags, as JSON behind the first
--       15 1 if the stream is interrupted when its producer is silent
--       16 mark of order (empty: none)   17 ms of silence that interrupt (empty: this is no interruption)
-- Returns { outcome, expected, 1 if resumed, fields of the stream … }, see `describe`.

-- Called without keys it does nothing, and Redis knows it from then on.
if #KEYS == 0 then
  return
end

-- Lua itself writes a number of sixteen digits as 1e15.
local function text(number)
  return string.format('%.0f', number)
end

local meta, stream = KEYS[1], KEYS[2]
local FIELDS = { 'k', 's', 'o', 'e', 'a', 'n', 'w', 'f', 't', 'c', 'x' }

local function describe(outcome, expected, resumed)
  local found = redis.call('HMGET', meta, unpack(FIELDS))
  local answer = { outcome, text(expected or 0), resumed and 1 or 0 }
  for index = 1, #FIELDS do
    answer[3 + index] = found[index] or ''
  end
  return answer
end

local known = redis.call('HMGET', meta, 'k', 's', 'o', 'e', 'r', 'a', 'n', 't', 'l', 'q', 'x')
local kind, status, top, epoch, run = known[1], known[2], known[3], known[4], known[5]
if not kind then
  return describe('no_stream')
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local closed = status == 'complete' or status == 'failed' or status == 'cancelled'
local data, wanted = ARGV[2], ARGV[11]

if ARGV[17] ~= '' then
  if status ~= 'open' or not known[9] then
    return describe(closed and 'closed' or 'done')
  end
  local rest = tonumber(known[9]) + tonumber(ARGV[17]) - now
  if rest > 0 then
    return describe('alive', rest)
  end
end

-- The producer: where it stands, and where it wants to be.
local field, producer_epoch, first, last = 'p:' .. ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local fenced, newer = ARGV[7] ~= '', false
local problem, expected
if fenced then
  local known_epoch, known_last
  local stands = redis.call('HGET', meta, field)
  if stands then
    known_epoch, known_last = string.match(stands, '^(%d+) (%-?%d+)$')
    known_epoch, known_last = tonumber(known_epoch), tonumber(known_last)
  end
  if known_epoch and producer_epoch < known_epoch then
    problem, expected = 'zombie', known_epoch
  elseif not first then
    newer = known_epoch == nil or producer_epoch > known_epoch
    last = newer and -1 or known_last
  elseif not known_epoch or producer_epoch > known_epoch then
    newer = true
    if first ~= 0 then
      problem, expected = known_epoch and 'new_epoch' or 'gap', 0
    end
  elseif last <= known_last then
    return describe('repeated', known_last)
  elseif first > known_last + 1 then
    problem, expected = 'gap', known_last + 1
  elseif first < known_last + 1 then
    problem, expected = 'overlap', known_last + 1
  end
  if not problem and not known_epoch and tonumber(redis.call('HGET', meta, 'pc') or '0') >= 100 then
    problem = 'many_producers'
  end
end
if problem == 'zombie' then
  return describe(problem, expected)
end
if closed then
  return describe('closed')
end
if ARGV[6] ~= '' and ARGV[6] ~= kind then
  return describe('other_kind')
end
if problem then
  return describe(problem, expected)
end
if ARGV[16] ~= '' and known[10] and ARGV[16] <= known[10] then
  return describe('stale_mark')
end
local size = tonumber(known[7]) + tonumber(ARGV[4])
if tonumber(ARGV[4]) > 0 and size > tonumber(ARGV[5]) then
  return describe('full')
end

-- Another replication id means a restart or a promotion: what this server holds may be older than what was delivered.
local present = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
if not present then
  return redis.error_reply('ERR INFO replication has no master_replid, so history cannot be kept safely')
end
local previous = tonumber(top)
local offset = previous + 1
if run ~= present then
  -- As in publish.lua: offsets that were given out and then lost must not be given out again.
  offset = math.max(offset, tonumber(time[1]) * 1048576 + tonumber(time[2]))
end

local resumed = status == 'interrupted' and wanted ~= 'interrupted'
local length = tonumber(known[6])
local written = data ~= '' or wanted ~= ''
if written then
  if data == '' then
    data = kind == 'text' and '{"text":""}' or kind == 'json' and '{"json":[]}' or '{"bytes":""}'
  end
  local tags = '{"tags":{"at":"' .. text(length) .. '"' .. ARGV[14] .. '}}'
  local body = text(now) .. ' ' .. #tags .. '\n' .. tags .. data
  -- First the command that Redis denies when its memory is full: after another write it is never denied.
  redis.call('XADD', stream, text(offset) .. '-0', 'p', text(previous), 'd', body)
  local after = wanted ~= '' and wanted or 'open'
  redis.call('HSET', meta, 'o', text(offset), 'r', present, 'a', text(length + tonumber(ARGV[3])), 'n', text(size),
    's', after, 'w', ARGV[12], 'f', ARGV[13])
  -- No channel has a brace in its name. In a cluster a message stays within the shard that has the channel's slot.
  local publish = string.find(ARGV[1], '{', 1, true) and 'SPUBLISH' or 'PUBLISH'
  redis.call(publish, ARGV[1], 'p ' .. epoch .. ' ' .. text(offset) .. ' ' .. text(previous) .. '\n' .. body)
elseif resumed then
  redis.call('HSET', meta, 's', 'open', 'w', '')
end
if fenced then
  if redis.call('HSET', meta, field, text(producer_epoch) .. ' ' .. text(last)) == 1 then
    redis.call('HINCRBY', meta, 'pc', 1)
  end
end
if ARGV[16] ~= '' then
  redis.call('HSET', meta, 'q', ARGV[16])
end
if ARGV[15] == '1' and ARGV[17] == '' then
  redis.call('HSET', meta, 'l', text(now))
end
if not known[11] then
  for _, key in ipairs(KEYS) do
    if known[8] and tonumber(known[8]) > 0 then
      redis.call('PEXPIRE', key, known[8])
    else
      redis.call('PERSIST', key)
    end
  end
else
  redis.call('PEXPIRE', stream, math.max(1, tonumber(known[11]) - now))
end
return describe('done', 0, resumed)
