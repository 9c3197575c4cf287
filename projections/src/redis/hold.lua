-- Confirms, renews and ends holds. KEYS: a set of holders for each. ARGV: for
-- each the session, and until when (ms), or nothing when it was given back.
for place = 1, #KEYS do
  local key, member, till = KEYS[place], ARGV[2 * place - 1], ARGV[2 * place]
  if till == '' then
    redis.call('ZREM', key, member)
  else
    redis.call('ZADD', key, till, member)
    local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
    redis.call('PEXPIREAT', key, string.format('%.0f', tonumber(last[2]) + 60000))
  end
end
return #KEYS
