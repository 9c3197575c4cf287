-- Forgets a node's rows and its mark. KEYS: node, keys, sessions.
redis.call('HDEL', KEYS[1], 'seq', 'at', 'resume', 'keys_rows', 'sessions_rows')
redis.call('DEL', KEYS[2], KEYS[3])
return 1
