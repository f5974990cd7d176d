-- Publishes in many channels, each as publish.lua and publish_once.lua do: it stands behind them in one script.
-- Not for a cluster, whose scripts have the keys of one slot only; here the keys are made of the channels' names.
--
-- ARGV  1 prefix   2 random text of letters and digits, for new epochs   3 a number, so that calls may share that text:
--       it and the next numbers, one for each channel, are used in one call only
--       then parts, each with what its channels share:
--       "<entries to keep, 0: none> <ms to keep them> <ms to keep the position> <letters>"; empty: as of the part before
--       the body, or the whole message where nothing is kept
--       with the letter i: the idempotency key   with v: the version and its epoch   with l: what is sent for the body
--       the names of the channels, each with a line feed behind it; no name has a control character
-- Returns for the parts in their order
--       a text where everything was kept, for all parts up to the next that is answered otherwise: the positions,
--       {"offset":1,"epoch":"…"},{"offset": …
--       the number of a part's channels, below 0, where all was sent and none kept
--       otherwise a list of offset, epoch, offset, epoch …, with an error and "" for a channel that was refused.

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

local replies, positions = {}, {}
local function reply(part)
  if #positions > 0 then
    replies[#replies + 1] = table.concat(positions, ',')
    positions = {}
  end
  replies[#replies + 1] = part
end

local prefix, new_epoch, number = take(true), take(true), tonumber(take(true))
local size, milliseconds, meta_milliseconds, letters
while position < #ARGV do
  local how = take(true)
  if how ~= '' then
    size, milliseconds, meta_milliseconds, letters = string.match(how, '^(%d+) (%d+) (%d+) (%l*)$')
  end
  local body = take(true)
  local key = take(string.find(letters, 'i', 1, true))
  local version = take(string.find(letters, 'v', 1, true))
  local version_epoch = take(version)
  local live = take(string.find(letters, 'l', 1, true))
  local channels, outcomes, kept, sent = 0, {}, size ~= '0', size == '0' and not key
  for name in string.gmatch(take(true), '([^\n]*)\n') do
    local channel, marked = prefix .. ':' .. name, ':{' .. name .. '}'
    local idempotency = key and prefix .. ':idem' .. marked .. ':' .. key
    local done, offset, epoch
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
    number, channels = number + 1, channels + 1
    if done then
      outcomes[2 * channels - 1], outcomes[2 * channels] = offset, epoch
      -- What stands in JSON as it is.
      kept = kept and string.find(epoch, '^%w+$')
    else
      outcomes[2 * channels - 1] = type(offset) == 'table' and { err = offset.err } or redis.error_reply(offset)
      outcomes[2 * channels] = ''
      kept, sent = false, false
    end
  end
  if sent then
    reply(-channels)
  elseif kept then
    for each = 1, 2 * channels, 2 do
      positions[#positions + 1] = '{"offset":' .. outcomes[each] .. ',"epoch":"' .. outcomes[each + 1] .. '"}'
    end
  else
    for each = 1, 2 * channels, 2 do
      outcomes[each] = tonumber(outcomes[each]) or outcomes[each]
    end
    reply(outcomes)
  end
end
reply(nil)
return replies
