-- Says that a node is there. KEYS: node, keys, sessions. ARGV: version,
-- started, keys, sessions, host, offset, ms to keep, process. The process that
-- announced itself before is answered: two of one node must not be.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local stored = redis.call('HMGET', KEYS[1], 'heartbeat', 'seq', 'offset', 'keys_rows', 'sessions_rows',
  'process')
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'started', ARGV[2], 'heartbeat', now,
  'keys', ARGV[3], 'sessions', ARGV[4], 'host', ARGV[5], 'offset', stored[3] or ARGV[6],
  'process', ARGV[8])
redis.call('HDEL', KEYS[1], 'left')
local is_whole = tonumber(stored[4] or nil) == redis.call('HLEN', KEYS[2])
  and tonumber(stored[5] or nil) == redis.call('HLEN', KEYS[3])
if stored[2] and not is_whole then
  -- Somebody deleted rows: what is left is not the whole.
  redis.call('HDEL', KEYS[1], 'seq', 'at', 'resume')
  stored[2] = false
end
for place = 1, 3 do redis.call('PEXPIRE', KEYS[place], ARGV[7]) end
return {now, stored[1] or '', stored[2] or '', stored[3] or ARGV[6], stored[6] or ''}
