#!lua flags=allow-oom
-- Free the key of a claim that stands.
--
-- KEYS[1]  the record
-- ARGV[1]  token
-- reply    1 released  |  0 the claim does not stand, nothing was changed  |  error UNREADABLE

local record = redis.call('GET', KEYS[1])
if not record then
  return 0
end

-- A claim as frame.py reads it, with this token. Anything else stays as it is.
if #record == 119
  and string.sub(record, 1, 34) == '1P' .. ARGV[1]
  and string.find(record, '^%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d[0-9a-f]+$', 35)
  and string.sub(record, 35, 40) ~= '000000'
then
  return redis.call('DEL', KEYS[1])
end

local readable = string.find(string.sub(record, 1, 119), '^1[PCN][0-9a-f]+$')
  and string.find(record, '^%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d', 35)
  and string.sub(record, 35, 40) ~= '000000'
  and (#record == 119 or #record > 119 and string.sub(record, 2, 2) == 'C')
if not readable then
  return redis.error_reply('UNREADABLE the key holds something that is not a record of this version')
end
return 0
