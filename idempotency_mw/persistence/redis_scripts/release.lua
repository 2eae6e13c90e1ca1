#!lua flags=allow-oom
-- Free the key of a claim that stands.
--
-- KEYS[1]  the record
-- ARGV[1]  token
-- reply    1 released  |  0 the claim does not stand; nothing was changed  |  error UNREADABLE

local record = redis.call('GET', KEYS[1])
if not record then
  return 0
end

-- As frame.py reads it: anything else is not a record, and stays as it is.
local readable = string.find(string.sub(record, 1, 119), '^1[PCN][0-9a-f]+$')
  and string.find(string.sub(record, 35, 55), '^%d+$')
  and string.sub(record, 35, 40) ~= '000000'
  and (#record == 119 or #record > 119 and string.sub(record, 2, 2) == 'C')
if not readable then
  return redis.error_reply('UNREADABLE the key holds something that is not a record of this version')
elseif string.sub(record, 2, 34) ~= 'P' .. ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
