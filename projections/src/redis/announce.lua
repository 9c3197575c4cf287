-- Says that a node is there. KEYS: node, keys, sessions. ARGV: version,
-- started, keys, sessions, host, offset, ms to keep.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local stored = redis.call('HMGET', KEYS[1], 'heartbeat', 'seq', 'offset')
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'started', ARGV[2], 'heartbeat', now,
  'keys', ARGV[3], 'sessions', ARGV[4], 'host', ARGV[5], 'offset', stored[3] or ARGV[6])
for place = 1, 3 do redis.call('PEXPIRE', KEYS[place], ARGV[7]) end
return {now, stored[1] or '', stored[2] or '', stored[3] or ARGV[6]}
