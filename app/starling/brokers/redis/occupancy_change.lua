-- Takes one call of a holder: channels that it enters and leaves. Gives up what a holder held that is gone.
--
-- KEYS  1 <prefix>:{occupancy}:leases              sorted set: holder -> ms since 1970 by the clock of Redis
--       2 <prefix>:{occupancy}:holders             hash: channel -> number of its holders
--       3 <prefix>:{occupancy}:revision            the last revision that was given
--       4 <prefix>:{occupancy}:answer:<holder>     the number of its last call and the answer, packed
--       5 <prefix>:{occupancy}:channels:<holder>   set of what it holds
-- ARGV  1 holder   2 number of the call   3 ms that its lease lasts   4 ms that keys stay   5 how many it enters
--       6 and so on: the channels it enters, then those it leaves
-- Returns occupied, vacated, revision, and 1 if there is more to report; nothing if the holder was lost.

local leases, holders, revision_key, answer_key, channels = unpack(KEYS)
local holder, number = ARGV[1], tonumber(ARGV[2])
local PORTION = 1000

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local last = redis.call('GET', answer_key)
if last then
  last = cmsgpack.unpack(last)
  if last.number == number then
    return { last.occupied, last.vacated, last.revision, last.more }
  end
end
local lease = redis.call('ZSCORE', leases, holder)
if number > 1 and not (last and last.number == number - 1 and lease and tonumber(lease) > now) then
  return false
end

-- First a command that Redis denies when its memory is full: after another write it is never denied.
redis.call('ZADD', leases, now + tonumber(ARGV[3]), holder)

local occupied, vacated = {}, {}
local function uncount(channel)
  if redis.call('HINCRBY', holders, channel, -1) <= 0 then
    redis.call('HDEL', holders, channel)
    vacated[#vacated + 1] = channel
  end
end

local first_left = 6 + tonumber(ARGV[5])
for at = 6, #ARGV do
  local channel = ARGV[at]
  if at < first_left then
    if redis.call('SADD', channels, channel) == 1 and redis.call('HINCRBY', holders, channel, 1) == 1 then
      occupied[#occupied + 1] = channel
    end
  elseif redis.call('SREM', channels, channel) == 1 then
    uncount(channel)
  end
end

-- After the entering, so that a channel which goes from a lost holder to this one does not look empty in between.
local more = 0
local gone = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 1)[1]
if gone then
  local left = redis.call('SPOP', string.sub(channels, 1, -#holder - 1) .. gone, PORTION)
  for _, channel in ipairs(left) do
    uncount(channel)
  end
  if #left < PORTION then
    redis.call('ZREM', leases, gone)
    redis.call('DEL', string.sub(answer_key, 1, -#holder - 1) .. gone)
  end
  more = 1
end

local microseconds = tonumber(time[1]) * 1000000 + tonumber(time[2])
local revision = string.format('%.0f', math.max(microseconds, tonumber(redis.call('GET', revision_key) or 0) + 1))
redis.call('SET', revision_key, revision)
local answer = { number = number, occupied = occupied, vacated = vacated, revision = revision, more = more }
redis.call('SET', answer_key, cmsgpack.pack(answer))
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[4])
end
return { occupied, vacated, revision, more }
