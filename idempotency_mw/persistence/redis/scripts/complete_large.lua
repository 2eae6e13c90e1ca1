#!lua flags=allow-oom
-- Put a result that lies under a temporary key in place of a claim that stands: as complete.lua, but the result does
-- not pass through Lua, which would copy it again and again.
--
-- KEYS[1]  the record
-- KEYS[2]  the temporary key: 119 bytes of room for the prefix, then the result. Gone after this, whatever is replied
-- ARGV[1]  token
-- ARGV[2]  retention in milliseconds
-- ARGV[3]  length of what the temporary key holds
-- reply    1 settled, now or before  |  2 the temporary key is gone: nothing was changed  |  {0} nothing there
--          |  {0, remaining milliseconds, the record's bytes} somebody else's, or unreadable: untouched

local record = redis.call('GET', KEYS[1])
if not record then
  redis.call('DEL', KEYS[2])
  return {0}
end

-- As frame.py reads it: anything else is not a record, and stays as it is.
if #record == 119
  and string.sub(record, 1, 34) == '1P' .. ARGV[1]
  and string.find(record, '^%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d[0-9a-f]+$', 35)
  and string.sub(record, 35, 40) ~= '000000'
then
  if redis.call('SETRANGE', KEYS[2], 0, '1C' .. string.sub(record, 3)) ~= tonumber(ARGV[3]) then
    redis.call('DEL', KEYS[2])
    return 2
  end
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  -- The record gets the expiry with the value. An ACL may forbid this alone, and the expiry is already long.
  local renamed = redis.pcall('RENAME', KEYS[2], KEYS[1])
  if renamed.err then
    redis.call('DEL', KEYS[2])
    return renamed
  end
  return 1
end

redis.call('DEL', KEYS[2])
-- What an earlier complete did, whose reply was lost. Completed is final.
if string.find(string.sub(record, 1, 119), '^1[CN][0-9a-f]+$')
  and string.sub(record, 3, 34) == ARGV[1]
  and string.find(record, '^%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d', 35)
  and string.sub(record, 35, 40) ~= '000000'
  and (#record == 119 or #record > 119 and string.sub(record, 2, 2) == 'C')
then
  return 1
end

-- As acquire.lua replies.
local remaining
local lapses = string.match(record, '^1P') and string.match(string.sub(record, 41, 55), '^%d+$')
if lapses then
  local time = redis.call('TIME')
  remaining = lapses - time[1] * 1000 - math.floor(time[2] / 1000)
else
  remaining = redis.call('PTTL', KEYS[1])
end
return {0, remaining, record}
