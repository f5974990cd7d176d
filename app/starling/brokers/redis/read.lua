-- Reads a channel's position and entries of its history in one step, and renews the position's life.
--
-- KEYS  1 <prefix>:meta:{<channel>}   2 <prefix>:stream:{<channel>}
-- ARGV  1 ms to keep the position (0: for ever)   2 random text without spaces, for a new epoch
--       3, 4 offsets that the entries lie between (4: empty for no end)
--       5 entries at most (-1: all)   6 bytes of data at most beyond the first entry (-1: all)
--       7 which end to keep where 5 and 6 cut: oldest or newest
--       8 ms to keep a position without a publication   9 1 if the caller follows the channel, and so renews those ms
--       10 "<epoch> <offset> <bottom>" of the last answer to these arguments, or left out
-- What is there is read even where Redis refuses to renew its life, for example without enough replicas (pcall).
-- Returns { epoch, offset, bottom, 1 if cut, { { id, { 'p', previous, 'd', body } }, ... } }, the end that is kept first.
-- Where the answer is the last one again, -1 stands for "cut", and the entries are left out.
-- Bottom is the offset before the oldest entry, or the position's own without entries.

local meta, stream = KEYS[1], KEYS[2]
local after, before, limit, bytes = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local newest = ARGV[7] == 'newest'

local known = redis.call('HMGET', meta, 'e', 'o', 'k', 't', 'x')
local epoch, top = known[1], known[2]
if not epoch then
  local run = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
  if not run then
    return redis.error_reply('ERR INFO replication has no master_replid, so history cannot be kept safely')
  end
  epoch, top = ARGV[2], '0'
  -- First the command that Redis denies when its memory is full: after another write it is never denied.
  redis.call('HSET', meta, 'e', epoch, 'o', top, 'r', run)
  redis.call('PEXPIRE', meta, ARGV[8])
  redis.call('DEL', stream)
elseif known[3] then
  -- An append-only stream has a life of its own, which reads renew unless its end was set.
  for _, key in ipairs(known[5] and {} or KEYS) do
    if tonumber(known[4]) > 0 then
      redis.pcall('PEXPIRE', key, known[4])
    end
  end
elseif top == '0' then
  if ARGV[9] == '1' then
    redis.pcall('PEXPIRE', meta, ARGV[8])
  end
elseif tonumber(ARGV[1]) > 0 then
  redis.pcall('PEXPIRE', meta, ARGV[1])
else
  redis.pcall('PERSIST', meta)
end

local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
local bottom = top
if oldest then
  bottom = oldest[2][1] == 'p' and string.match(oldest[2][2], '^%d+$') or string.match(oldest[1], '%d+')
end

-- Entries do not change; they are added behind the offset and removed up to bottom.
if ARGV[10] == epoch .. ' ' .. top .. ' ' .. bottom then
  return { epoch, top, bottom, -1, {} }
end
if ARGV[11] and ARGV[11] ~= '' then
  local newer = redis.call('XRANGE', stream, '(' .. ARGV[11] .. '-0', '+', 'COUNT', 17)
  if #newer > 0 and #newer < 17 then
    return { epoch, top, bottom, -2, newer }
  end
end

local entries = {}
if limit == 0 or before == '0' then
  return { epoch, top, bottom, 0, entries }
end

-- In portions, because XRANGE knows no bound in bytes.
local low, high = '(' .. after .. '-0', before == '' and '+' or '(' .. before .. '-0'
local read = 0
while true do
  local portion = 50
  if limit > 0 then
    portion = math.min(portion, limit - #entries)
  end
  local found
  if newest then
    found = redis.call('XREVRANGE', stream, high, low, 'COUNT', portion)
  else
    found = redis.call('XRANGE', stream, low, high, 'COUNT', portion)
  end
  for _, entry in ipairs(found) do
    for field = 2, #entry[2], 2 do
      read = read + #entry[2][field]
    end
    if bytes >= 0 and read > bytes and #entries > 0 then
      return { epoch, top, bottom, 1, entries }
    end
    entries[#entries + 1] = entry
  end
  if #found < portion then
    return { epoch, top, bottom, 0, entries }
  end
  if #entries == limit then
    return { epoch, top, bottom, 1, entries }
  end
  local edge = '(' .. found[#found][1]
  if newest then
    high = edge
  else
    low = edge
  end
end
