-- Returns the commands that the calling user may not run.
--
-- ARGV  1 a key   2 a channel   then names of commands, each followed by what it is given here:
--       key, channel, script or nothing
-- Returns the names.

local missing = {}
for at = 3, #ARGV, 2 do
  local name, given = ARGV[at], ARGV[at + 1]
  local command = {}
  for word in string.gmatch(name, '[^|]+') do
    command[#command + 1] = word
  end
  if given == 'key' then
    command[#command + 1] = ARGV[1]
  elseif given == 'channel' then
    command[#command + 1] = ARGV[2]
  elseif given == 'script' then
    command[#command + 1] = ''
    command[#command + 1] = '0'
  end
  -- A command that this server does not know raises an error.
  local known, may = pcall(redis.acl_check_cmd, unpack(command))
  if known and not may then
    missing[#missing + 1] = name
  end
end
return missing
