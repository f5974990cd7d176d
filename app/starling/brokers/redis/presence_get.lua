-- Returns the clients of a channel, each followed by its entry.

return redis.call('HGETALL', clients)
