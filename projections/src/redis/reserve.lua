-- Reserves capped keys. KEYS: sets of holders. ARGV: the session, for how many
-- ms, the number of models; for each model: how many are wanted, how many are
-- named, and for each of these the place of its set in KEYS (0: no cap) and
-- its cap. Answers the places of what was given, for each model.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local member, till = ARGV[1], now + tonumber(ARGV[2])

local function reserve(key, cap)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now))
  local held = tonumber(redis.call('ZSCORE', key, member) or nil)
  if held and held >= till then return true end
  if not held and redis.call('ZCARD', key) >= cap then return false end
  redis.call('ZADD', key, string.format('%.0f', till), member)
  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  redis.call('PEXPIREAT', key, string.format('%.0f', tonumber(last[2]) + 60000))
  return true
end

local place, answer = 4, {}
for model = 1, tonumber(ARGV[3]) do
  local count, named, given = tonumber(ARGV[place]), tonumber(ARGV[place + 1]), {}
  place = place + 2
  for key = 1, named do
    local set = tonumber(ARGV[place])
    if #given < count and (set == 0 or reserve(KEYS[set], tonumber(ARGV[place + 1]))) then
      given[#given + 1] = key
    end
    place = place + 2
  end
  answer[model] = given
end
return answer
