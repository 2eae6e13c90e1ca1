-- Acquire the key, or return the record that stands there, in one atomic step.
--
-- KEYS[1]  the record
-- ARGV[1]  token, 32 hexadecimal digits
-- ARGV[2]  fingerprint, 64 hexadecimal digits
-- ARGV[3]  lease in milliseconds
-- ARGV[4]  retention in milliseconds
-- ARGV[5]  "1" if a lapsed claim may be taken over, else "0"
-- reply    the attempt: acquired  |  {0, remaining milliseconds, the record's bytes}: existing, untouched
--
-- frame.py has the format of the bytes. A claim has the milliseconds until its lease lapses remaining, everything else
-- those until the key expires. A negative number means: lapsed, or without an expiry, which is no record of ours. A
-- record that this script can't read is returned as it is, and the layer refuses it.
--
-- There is no shebang, on purpose: a full Redis then still runs this script and answers duplicates. It refuses only the
-- write of a new claim, before the app has run.

local record = redis.call('GET', KEYS[1])
local attempts = record and #record == 119 and string.find(record, '^1P[0-9a-f]+$')
  and string.find(record, '^%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d', 35)
  and tonumber(string.sub(record, 35, 40))
if record and (not attempts or attempts == 0) then
  return {0, redis.call('PTTL', KEYS[1]), record}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local attempt = 1
if record then
  local remaining = string.sub(record, 41, 55) - now
  if string.sub(record, 3, 34) == ARGV[1] then
    -- The owner asks again, because the reply to its first try was lost. It still owns the claim.
    attempt = attempts
  elseif ARGV[5] == '1' and remaining <= 0 and string.sub(record, 56) == ARGV[2] then
    -- A takeover: the lease has lapsed, and it is the same request.
    attempt = math.min(attempts + 1, 999999)
  else
    return {0, remaining, record}
  end
end

local lease = tonumber(ARGV[3])
local value = string.format('1P%s%06d%015.0f%s', ARGV[1], attempt, now + lease, ARGV[2])
redis.call('SET', KEYS[1], value, 'PX', lease > tonumber(ARGV[4]) and ARGV[3] or ARGV[4])
return attempt
