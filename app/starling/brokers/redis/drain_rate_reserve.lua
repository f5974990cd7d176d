-- Takes the next turns of a rate that all processes share (a generic cell rate algorithm without a burst).
--
-- KEYS  1 <prefix>:{drain}:next_turn, when the next turn is free, in us since 1970 by the clock of this Redis
-- ARGV  1 how long the turns that are wanted last, in us
-- Returns how long until the first of them begins, in us.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local turn = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local free = turn + ARGV[1]
redis.call('SET', KEYS[1], string.format('%.0f', free), 'PX', string.format('%.0f', math.ceil((free - now) / 1000) + 1))
return turn - now
