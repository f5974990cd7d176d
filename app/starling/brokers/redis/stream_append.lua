-- Adds a chunk to an append-only stream, closes it, or both, and sends it to every process, in one step.
--
-- KEYS  1 <prefix>:meta:{<channel>}   2 <prefix>:stream:{<channel>}
-- ARGV  1 <prefix>:<channel>, in a cluster <prefix>:{<channel>}
--       2 data (empty: no chunk)   3 units   4 bytes of content   5 bytes that the stream may hold   6 kind (empty: any)
--       7 producer (empty: none)   8 its epoch   9, 10 first and last sequence (empty: it only shows that it lives)
--       11 1 if the stream is interrupted when its producer is silent
--      The rest may be left out:
--       12 status afterwards (empty: open)   13 reason   14 final JSON   15 further tags, as JSON behind the first
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
local data, wanted, mark, silence = ARGV[2], ARGV[12] or '', ARGV[16] or '', ARGV[17] or ''
local field = 'p:' .. ARGV[7]

-- All that is known of the stream, in one command: what is returned of it comes first.
local known = redis.call('HMGET', meta, 'k', 's', 'o', 'e', 'a', 'n', 'w', 'f', 't', 'c', 'x', 'r', 'l', 'q', 'pc', field)
local RETURNED = 11
local kind, status, top, epoch = known[1], known[2], known[3], known[4]

local function describe(outcome, expected, resumed)
  local answer = { outcome, expected and text(expected) or '0', resumed and 1 or 0 }
  for index = 1, RETURNED do
    answer[3 + index] = known[index] or ''
  end
  return answer
end

if not kind then
  return describe('no_stream')
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local closed = status ~= 'open' and status ~= 'interrupted'

if silence ~= '' then
  if status ~= 'open' or not known[13] then
    return describe(closed and 'closed' or 'done')
  end
  local rest = tonumber(known[13]) + tonumber(silence) - now
  if rest > 0 then
    return describe('alive', rest)
  end
end

-- The producer: where it stands, and where it wants to be.
local fenced, stands = ARGV[7] ~= '', known[16]
local producer_epoch, first, last = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local problem, expected
if fenced then
  local known_epoch, known_last
  if stands then
    known_epoch, known_last = string.match(stands, '^(%d+) (%-?%d+)$')
    known_epoch, known_last = tonumber(known_epoch), tonumber(known_last)
  end
  if known_epoch and producer_epoch < known_epoch then
    problem, expected = 'zombie', known_epoch
  elseif not first then
    local newer = known_epoch == nil or producer_epoch > known_epoch
    last = newer and -1 or known_last
  elseif not known_epoch or producer_epoch > known_epoch then
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
  if not problem and not known_epoch and tonumber(known[15] or '0') >= 100 then
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
if mark ~= '' and known[14] and mark <= known[14] then
  return describe('stale_mark')
end
local added = tonumber(ARGV[4])
local size = tonumber(known[6]) + added
if added > 0 and size > tonumber(ARGV[5]) then
  return describe('full')
end

-- Another replication id means a restart or a promotion: what this server holds may be older than what was delivered.
local replication = redis.call('INFO', 'replication')
local same_run = known[12] and string.find(replication, 'master_replid:' .. known[12], 1, true)
local run = same_run and known[12] or string.match(replication, 'master_replid:(%w+)')
if not run then
  return redis.error_reply('ERR INFO replication has no master_replid, so history cannot be kept safely')
end
local offset = tonumber(top) + 1
if not same_run then
  -- As in publish.lua: offsets that were given out and then lost must not be given out again.
  offset = math.max(offset, tonumber(time[1]) * 1048576 + tonumber(time[2]))
end

-- What changes in the state of the stream, in one command.
local changes = {}
local function set(index, name, value)
  if (known[index] or '') ~= value then
    changes[#changes + 1] = name
    changes[#changes + 1] = value
    known[index] = value
  end
end

local resumed = status == 'interrupted' and wanted ~= 'interrupted'
if data ~= '' or wanted ~= '' then
  if data == '' then
    data = kind == 'text' and '{"text":""}' or kind == 'json' and '{"json":[]}' or '{"bytes":""}'
  end
  local length, next_top = known[5], text(offset)
  local tags = '{"tags":{"at":"' .. length .. '"' .. (ARGV[15] or '') .. '}}'
  local body = text(now) .. ' ' .. #tags .. '\n' .. tags .. data
  -- First the command that Redis denies when its memory is full: after another write it is never denied.
  redis.call('XADD', stream, next_top .. '-0', 'p', top, 'd', body)
  -- No channel has a brace in its name. In a cluster a message stays within the shard that has the channel's slot.
  local publish = string.find(ARGV[1], '{', 1, true) and 'SPUBLISH' or 'PUBLISH'
  redis.call(publish, ARGV[1], 'p ' .. epoch .. ' ' .. next_top .. ' ' .. top .. '\n' .. body)
  set(2, 's', wanted ~= '' and wanted or 'open')
  set(3, 'o', next_top)
  set(5, 'a', text(tonumber(length) + tonumber(ARGV[3])))
  set(6, 'n', text(size))
  set(7, 'w', ARGV[13] or '')
  set(8, 'f', ARGV[14] or '')
  set(12, 'r', run)
elseif resumed then
  set(2, 's', 'open')
  set(7, 'w', '')
end
if ARGV[11] == '1' and silence == '' then
  set(13, 'l', text(now))
end
if mark ~= '' then
  set(14, 'q', mark)
end
if fenced then
  if not stands then
    set(15, 'pc', text(tonumber(known[15] or '0') + 1))
  end
  set(16, field, text(producer_epoch) .. ' ' .. text(last))
end
if #changes > 0 then
  redis.call('HSET', meta, unpack(changes))
end
local ends, ttl = known[11], known[9]
if ends then
  redis.call('PEXPIRE', stream, math.max(1, tonumber(ends) - now))
elseif ttl and tonumber(ttl) > 0 then
  redis.call('PEXPIRE', meta, ttl)
  redis.call('PEXPIRE', stream, ttl)
else
  redis.call('PERSIST', meta)
  redis.call('PERSIST', stream)
end
return describe('done', 0, resumed)
