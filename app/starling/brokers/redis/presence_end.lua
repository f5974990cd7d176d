-- Takes a client out of a channel, where its time is nearly over.
--
-- ARGV  1 the client   2 ms that it has left at most (-1: any time)
-- Returns its entry where it was taken out, else nothing.

local ends, left = redis.call('ZSCORE', deadlines, ARGV[1]), tonumber(ARGV[2])
if not ends or (left >= 0 and tonumber(ends) - now > left) then
  return false
end
local entry = redis.call('HGET', clients, ARGV[1])
take_out({ ARGV[1] })
return entry
