#!lua flags=allow-oom
-- Put the result in place of a claim that stands. Never creates a record that is gone.
--
-- KEYS[1]  the record
-- ARGV[1]  token
-- ARGV[2]  retention in milliseconds
-- ARGV[3]  "C" completed  |  "N" completed, the result not kept
-- ARGV[4]  result
-- reply    {1} settled, now or before  |  {0} nothing there
--          |  {0, now in milliseconds, the record's bytes} somebody else's, or unreadable: untouched
--
-- allow-oom: a result is never lost to a full Redis after the app has run.

local record = redis.call('GET', KEYS[1])
if not record then
  return {0}
end

-- As frame.py reads it: anything else is not a record, and stays as it is.
local readable = string.find(string.sub(record, 1, 119), '^1[PCN][0-9a-f]+$')
  and string.find(string.sub(record, 35, 55), '^%d+$')
  and string.sub(record, 35, 40) ~= '000000'
  and (#record == 119 or #record > 119 and string.sub(record, 2, 2) == 'C')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if not readable or string.sub(record, 3, 34) ~= ARGV[1] then
  return {0, now, record}
elseif string.sub(record, 2, 2) ~= 'P' then
  -- The reply of an earlier complete was lost. Completed is final.
  return {1}
end

local retention = tonumber(ARGV[2])
local prefix = '1' .. ARGV[3] .. string.sub(record, 3, 40) .. string.format('%015.0f', now + retention)
redis.call('SET', KEYS[1], prefix .. string.sub(record, 56, 119) .. ARGV[4], 'PX', string.format('%.0f', retention))
return {1}
