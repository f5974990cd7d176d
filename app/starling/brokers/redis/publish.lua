-- Appends a publication to a channel's history and sends it to every process, in one step.
--
-- KEYS  1 <prefix>:meta:{<channel>}   2 <prefix>:stream:{<channel>}
--       3 <prefix>:idem:{<channel>}:<key>, or left out
-- ARGV  1 <prefix>:<channel>, in a cluster <prefix>:{<channel>}
--       2 body: "<time in ms> <length of meta>\n<meta><data>"; without meta "<time in ms> 0\n<data>"
--       3 entries to keep   4 ms to keep them (0: for ever)   5 ms to keep the position (0: for ever)
--       6 random text without spaces, for a new epoch   7 version, of digits ("0" or left out: none)   8 epoch of the version
--       9 what is sent in place of the body, or left out
-- Returns { offset, epoch }, both text: of the stream's top where a version that is not new was dropped.

-- Lua itself writes a number of sixteen digits as 1e15.
local function text(number)
  return string.format('%.0f', number)
end

local function expire(key, milliseconds)
  if tonumber(milliseconds) > 0 then
    redis.call('PEXPIRE', key, milliseconds)
  else
    redis.call('PERSIST', key)
  end
end

-- Numbers of Lua are exact up to 2^53 only, and so versions are compared as texts of digits.
local function above(version, other)
  return #version > #other or (#version == #other and version > other)
end

-- Another replication id means a restart or a promotion: what this server holds may be older than what was delivered.
local run
local function replication_id()
  run = run or string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
  if not run then
    error(redis.error_reply('ERR INFO replication has no master_replid, so history cannot be kept safely'))
  end
  return run
end

local function keep(
  keys, channel, body, size, milliseconds, meta_milliseconds, new_epoch, version, version_epoch, live
)
  local meta, stream, idempotency = keys[1], keys[2], keys[3]

  if idempotency then
    local known = redis.call('GET', idempotency)
    if known then
      return string.match(known, '^(%d+) (.*)$')
    end
  end

  local present = replication_id()
  local known = redis.call('HMGET', meta, 'e', 'o', 'r', 'v', 'w')
  local epoch, previous, offset = known[1], 0, 1
  version = version or '0'
  if version ~= '0' and known[4] and known[5] == version_epoch and not above(version, known[4]) then
    return known[2], epoch
  end
  if epoch then
    previous = tonumber(known[2])
    offset = previous + 1
    if known[3] ~= present then
      -- Offsets given out and then lost must not be given out again. The clock in microseconds, spread so that no
      -- channel outruns it, is past them all, also after two restarts in one second.
      local now = redis.call('TIME')
      offset = math.max(offset, tonumber(now[1]) * 1048576 + tonumber(now[2]))
    end
  else
    epoch = new_epoch
    -- First the command that Redis denies when its memory is full: after another write it is never denied.
    redis.call('HSET', meta, 'e', epoch, 'o', '0', 'r', present)
    redis.call('DEL', stream)
  end

  redis.call('XADD', stream, 'MAXLEN', size, text(offset) .. '-0', 'p', text(previous), 'd', body)
  expire(stream, milliseconds)
  redis.call('HSET', meta, 'e', epoch, 'o', text(offset), 'r', present)
  if version ~= '0' then
    redis.call('HSET', meta, 'v', version, 'w', version_epoch)
  end
  expire(meta, meta_milliseconds)
  if idempotency then
    redis.call('SET', idempotency, text(offset) .. ' ' .. epoch, 'PX', 300000)
  end
  -- No channel has a brace in its name. In a cluster a message stays within the shard that has the channel's slot.
  local publish = string.find(channel, '{', 1, true) and 'SPUBLISH' or 'PUBLISH'
  redis.call(publish, channel, 'p ' .. epoch .. ' ' .. text(offset) .. ' ' .. text(previous) .. '\n' .. (live or body))
  return text(offset), epoch
end

-- Called without keys it does nothing, and Redis knows it from then on.
if #KEYS > 0 then
  return { keep(KEYS, unpack(ARGV)) }
end
