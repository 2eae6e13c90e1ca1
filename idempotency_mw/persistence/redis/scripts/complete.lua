#!lua flags=allow-oom
-- Put the result in place of a claim that stands. Never creates a record that is gone.
--
-- KEYS[1]  the record
-- ARGV[1]  token
-- ARGV[2]  retention in milliseconds
-- ARGV[3]  "C" completed  |  "N" completed, the result not kept
-- ARGV[4]  result
-- reply    1 settled, now or before  |  {0} nothing there
--          |  {0, remaining milliseconds, the record's bytes} somebody else's, or unreadable: untouched
--
-- allow-oom: a result is never lost to a full Redis after the app has run.

local record = redis.call('GET', KEYS[1])
if not record then
  return {0}
end

-- As frame.py reads it: anything else is not a record, and stays as it is.
if #record == 119
  and string.sub(record, 1, 34) == '1P' .. ARGV[1]
  and string.find(record, '^%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d[0-9a-f]+$', 35)
  and string.sub(record, 35, 40) ~= '000000'
then
  redis.call('SET', KEYS[1], '1' .. ARGV[3] .. string.sub(record, 3) .. ARGV[4], 'PX', ARGV[2])
  return 1
end

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
