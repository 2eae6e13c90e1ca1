#!lua flags=allow-oom
-- As complete.lua, with a result that lies under a temporary key already. It does not pass through Lua, which would copy
-- it three times: as an argument, into the record, and to SET.
--
-- KEYS[1]  the record
-- KEYS[2]  the temporary key: 119 bytes of room for the prefix, then the result. It is gone after every reply
-- ARGV[1]  token
-- ARGV[2]  retention in milliseconds
-- ARGV[3]  length of the value under the temporary key
-- reply    1 settled, now or before  |  2 the temporary key is gone, nothing was changed  |  {0} the key is free
--          |  {0, remaining milliseconds, the record's bytes} another owner's, or unreadable; untouched

local record = redis.call('GET', KEYS[1])
if not record then
  redis.call('DEL', KEYS[2])
  return {0}
end

-- A claim as frame.py reads it, with this token. Anything else stays as it is.
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
  -- The record takes over value and expiry. An ACL may forbid RENAME alone; then the temporary key, whose expiry is
  -- long by now, is deleted.
  local renamed = redis.pcall('RENAME', KEYS[2], KEYS[1])
  if renamed.err then
    redis.call('DEL', KEYS[2])
    return renamed
  end
  return 1
end

redis.call('DEL', KEYS[2])
-- An earlier try has completed it, and its reply was lost. A completed record is final.
if string.find(string.sub(record, 1, 119), '^1[CN][0-9a-f]+$')
  and string.sub(record, 3, 34) == ARGV[1]
  and string.find(record, '^%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d', 35)
  and string.sub(record, 35, 40) ~= '000000'
  and (#record == 119 or #record > 119 and string.sub(record, 2, 2) == 'C')
then
  return 1
end

-- Reply as acquire.lua does.
local remaining
local lapses = string.match(record, '^1P') and string.match(string.sub(record, 41, 55), '^%d+$')
if lapses then
  local time = redis.call('TIME')
  remaining = lapses - time[1] * 1000 - math.floor(time[2] / 1000)
else
  remaining = redis.call('PTTL', KEYS[1])
end
return {0, remaining, record}
