-- Another difference to the fleet's clock: what was published with the one
-- before is wrong. KEYS: node. ARGV: offset, started.
redis.call('HDEL', KEYS[1], 'seq', 'at', 'resume')
redis.call('HSET', KEYS[1], 'offset', ARGV[1], 'started', ARGV[2])
return 1
