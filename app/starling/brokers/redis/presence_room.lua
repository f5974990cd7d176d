-- The beginning of the presence scripts that add: fails when the memory of Redis is full.
--
-- It changes nothing. A script is denied memory only before its first write, and the sweep that follows may write.

redis.call('ZADD', KEYS[2], 'XX', 0, '')
