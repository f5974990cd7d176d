-- Returns how many clients and how many users are in a channel.

return { redis.call('HLEN', clients), redis.call('HLEN', users) }
