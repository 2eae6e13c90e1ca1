#!lua flags=allow-oom
-- Replace a claim that stands by its result. Never creates a record that is gone.
--
-- KEYS[1]  the record
-- ARGV[1]  token
-- ARGV[2]  retention in milliseconds
-- ARGV[3]  "C" completed  |  "N" completed, and the result is not kept
-- ARGV[4]  result
-- reply    1 settled, now or before  |  {0} the key is free
--          |  {0, remaining milliseconds, the record's bytes}: another owner's, or unreadable; untouched
--
-- allow-oom: a full Redis accepts it, so that no result is lost after the app has run.

local record = redis.call('GET', KEYS[1])
if not record then
  return {0}
end

-- A claim as frame.py reads it, with this token. Anything else stays as it is.
if #record == 119
  and string.sub(record, 1, 34) == '1P' .. ARGV[1]
  and string.find(record, '^%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d[0-9a-f]+$', 35)
  and string.sub(record, 35, 40) ~= '000000'
then
  redis.call('SET', KEYS[1], '1' .. ARGV[3] .. string.sub(record, 3) .. ARGV[4], 'PX', ARGV[2])
  return 1
end

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
