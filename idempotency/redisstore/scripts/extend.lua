-- KEYS: record.
-- ARGV: owner, fence, lease, how much longer an abandoned record is kept.
local r = redis.call('HMGET', KEYS[1], 'o', 'f', 'd', 'u')
if r[1] ~= ARGV[1] or r[2] ~= ARGV[2] or r[3] then return 'lost' end
local t = redis.call('TIME')
local till = t[1] * 1000000 + t[2] + ARGV[3]
if till > (tonumber(r[4] or '') or 0) then
  redis.call('HSET', KEYS[1], 'u', string.format('%.0f', till))
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', (ARGV[3] + ARGV[4]) / 1000 + 1))
end
return 'ok'
