-- Returns what a ticket grants, and forgets it.
--
-- KEYS  1 the ticket
-- Returns its content, nil where it is unknown, spent or over.

local content = redis.call('GET', KEYS[1])
if content then
  redis.call('DEL', KEYS[1])
end
return content
