-- Adds clients to a channel, or keeps them alive.
--
-- ARGV  1 ms that an entry lives   2, 3 a client and its entry   4, 5 and so on
-- Returns for each client 1 if its user was not here before, else 0; and 2 more if the client itself was not.

local lives = tonumber(ARGV[1])
local came = {}
for at = 2, #ARGV, 2 do
  local client, entry = ARGV[at], ARGV[at + 1]
  local known = redis.call('HGET', clients, client)
  local count = 0
  if known ~= entry then
    redis.call('HSET', clients, client, entry)
    redis.call('DEL', version)
    count = redis.call('HINCRBY', users, user_of(entry), 1)
    -- After the increment, so that a user who stays does not look new.
    if known then
      uncount(known)
    end
  end
  came[#came + 1] = (count == 1 and 1 or 0) + (known and 0 or 2)
  redis.call('ZADD', deadlines, now + lives, client)
end

-- These three keys end together, at the latest deadline.
local ends = math.max(lives, redis.call('PTTL', deadlines))
for _, key in ipairs({ clients, deadlines, users }) do
  redis.call('PEXPIRE', key, ends)
end
return came
