-- Publishes in many channels, each as publish.lua and publish_once.lua do: it stands behind them in one script.
-- Not for a cluster, whose scripts have the keys of one slot only; here the keys are made of the channels' names.
--
-- ARGV  1 prefix   2 random text without spaces, for new epochs   then parts, each with what its channels share:
--       "<entries to keep, 0: none> <ms to keep them> <ms to keep the position> <letters>"
--       the body, or the whole message where nothing is kept
--       with the letter i: the idempotency key   with v: the version and its epoch   with l: what is sent for the body
--       the number of channels, and their names
-- Returns for each part the number of its channels, below 0, where all was sent and none kept; otherwise a list of
-- offset, epoch, offset, epoch …, with an error and "" for a channel that was refused.

-- Called without arguments it does nothing, and Redis knows it from then on.
if #ARGV == 0 then
  return
end

local function send(channel, message)
  redis.call('PUBLISH', channel, message)
  return '0', ''
end

local position = 0
local function take(wanted)
  if wanted then
    position = position + 1
    return ARGV[position]
  end
end

local prefix, new_epoch, number = take(true), take(true), 0
local parts = {}
while position < #ARGV do
  local size, milliseconds, meta_milliseconds, letters = string.match(take(true), '^(%d+) (%d+) (%d+) (%l*)$')
  local body = take(true)
  local key = take(string.find(letters, 'i', 1, true))
  local version = take(string.find(letters, 'v', 1, true))
  local version_epoch = take(version)
  local live = take(string.find(letters, 'l', 1, true))
  local outcomes, plain = {}, size == '0' and not key
  for each = 1, tonumber(take(true)) do
    local name = take(true)
    local channel, marked = prefix .. ':' .. name, ':{' .. name .. '}'
    local idempotency = key and prefix .. ':idem' .. marked .. ':' .. key
    local done, offset, epoch
    number = number + 1
    -- What is refused, such as for want of memory, is refused alone.
    if size ~= '0' then
      local keys = { prefix .. ':meta' .. marked, prefix .. ':stream' .. marked, idempotency }
      done, offset, epoch = pcall(
        keep, keys, channel, body, size, milliseconds, meta_milliseconds, new_epoch .. number, version, version_epoch, live
      )
    elseif key then
      done, offset, epoch = pcall(send_once, idempotency, channel, body)
    else
      done, offset, epoch = pcall(send, channel, body)
    end
    plain = plain and done
    if done then
      outcomes[2 * each - 1], outcomes[2 * each] = tonumber(offset), epoch
    else
      outcomes[2 * each - 1] = type(offset) == 'table' and { err = offset.err } or redis.error_reply(offset)
      outcomes[2 * each] = ''
    end
  end
  parts[#parts + 1] = plain and -#outcomes / 2 or outcomes
end
return parts
