-- The beginning of every presence script: takes out the clients whose time is over.
--
-- KEYS  1 <prefix>:presence:{<channel>}             hash: client -> entry
--       2 <prefix>:presence-deadlines:{<channel>}   sorted set: client -> ms since 1970 by the clock of Redis
--       3 <prefix>:presence-users:{<channel>}       hash: user -> number of clients
--       4 <prefix>:presence-version:{<channel>}     a text of its own for the clients as they are, see presence_get.lua
-- An entry is "<bytes of user> <bytes of conn_info>\n<user><conn_info><chan_info>", any bytes.

local clients, deadlines, users, version = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- Nothing for what something else wrote: that stops nobody, and goes by itself.
local function user_of(entry)
  local length, start = string.match(entry, '^(%d+) %d+\n()')
  return length and string.sub(entry, start, start + tonumber(length) - 1)
end

local function uncount(entry)
  local user = user_of(entry)
  if user and redis.call('HINCRBY', users, user, -1) <= 0 then
    redis.call('HDEL', users, user)
  end
end

-- Takes out clients that are each named once.
local function take_out(names)
  local entries = redis.call('HMGET', clients, unpack(names))
  redis.call('HDEL', clients, unpack(names))
  redis.call('ZREM', deadlines, unpack(names))
  redis.call('DEL', version)
  for at = 1, #names do
    if entries[at] then
      uncount(entries[at])
    end
  end
end

while true do
  local over = redis.call('ZRANGEBYSCORE', deadlines, '-inf', now, 'LIMIT', 0, 1000)
  if #over > 0 then
    take_out(over)
  end
  if #over < 1000 then
    break
  end
end
