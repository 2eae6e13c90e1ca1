#!lua flags=allow-oom
-- Put the result in place of a claim that stands. Never creates a record that is gone.
--
-- KEYS[1]  the record
-- ARGV[1]  token
-- ARGV[2]  retention in milliseconds
-- ARGV[3]  "C" completed  |  "N" completed, the result not kept
-- ARGV[4]  result
-- reply    1 settled, now or before  |  {0} nothing there
--          |  {0, now in milliseconds, the record's bytes} somebody else's, or unreadable: untouched
--
-- allow-oom: a result is never lost to a full Redis after the app has run.

local record = redis.call('GET', KEYS[1])
if not record then
  return {0}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- As frame.py reads it: anything else is not a record, and stays as it is.
if #record == 119
  and string.sub(record, 1, 34) == '1P' .. ARGV[1]
  and string.find(record, '^%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d[0-9a-f]+$', 35)
  and string.sub(record, 35, 40) ~= '000000'
then
  local expires = string.format('%015.0f', now + ARGV[2])
  local value = '1' .. ARGV[3] .. string.sub(record, 3, 40) .. expires .. string.sub(record, 56) .. ARGV[4]
  redis.call('SET', KEYS[1], value, 'PX', ARGV[2])
  return 1
end

-- What an earlier complete did, whose reply was lost. Completed is final.
local settled = string.find(string.sub(record, 1, 119), '^1[CN][0-9a-f]+$')
  and string.sub(record, 3, 34) == ARGV[1]
  and string.find(record, '^%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d', 35)
  and string.sub(record, 35, 40) ~= '000000'
  and (#record == 119 or #record > 119 and string.sub(record, 2, 2) == 'C')
return settled and 1 or {0, now, record}
