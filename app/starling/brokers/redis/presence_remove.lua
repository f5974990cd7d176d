-- Takes clients out of a channel.
--
-- ARGV  1, 2 a client and its user   3, 4 and so on
-- Returns for each client 1 if no client of its user is here any more, else 0.

for at = 1, #ARGV, 2 do
  take_out({ ARGV[at] })
end
local gone = {}
for at = 2, #ARGV, 2 do
  gone[#gone + 1] = 1 - redis.call('HEXISTS', users, ARGV[at])
end
return gone
