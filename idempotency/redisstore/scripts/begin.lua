-- KEYS: record, fences of the record's hash tag.
-- ARGV: owner, schema and sum of the fingerprint, lease, how much longer an
-- abandoned record is kept. Times are in microseconds, which
-- Lua's numbers hold to the last digit, but its tostring does not.
local r = redis.call('HMGET', KEYS[1], 'o', 'f', 's', 'm', 'u', 'd')
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local taken = '0'
if r[1] then
  local till = tonumber(r[5] or '')
  if not (r[2] and r[3] and r[4] and till) then return {'corrupt'} end
  local done = r[6] == '1'
  if not done or till > now then
    if ARGV[2] ~= '' and r[3] == ARGV[2] and r[4] ~= ARGV[3] then return {'reused'} end
    if done then
      local outcome = redis.call('HGET', KEYS[1], 'r')
      if not outcome then return {'corrupt'} end
      return {'replay', outcome}
    end
    if r[1] == ARGV[1] then return {'run', r[2], taken} end
    if till > now then return {'join'} end
    taken = '1'
  end
  redis.call('DEL', KEYS[1])
elseif redis.call('EXISTS', KEYS[1]) == 1 then
  return {'corrupt'}
end
redis.call('INCR', KEYS[2])
local fence = redis.call('GET', KEYS[2]) -- as text: a number of Lua's would lose digits
redis.call('HSET', KEYS[1], 'o', ARGV[1], 'f', fence, 's', ARGV[2], 'm', ARGV[3],
  'u', string.format('%.0f', now + ARGV[4]))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', (ARGV[4] + ARGV[5]) / 1000 + 1))
return {'run', fence, taken}
