-- Reserves capped keys. KEYS: sets of holders. ARGV: the session, the node's
-- number, for how many ms, the number of models; for each model: how many are
-- wanted, whether it needs one (1), how many are named, and for each of these
-- the place of its set in KEYS (0: no cap) and its cap. Answers the places of
-- what was given, for each model. When a model that needs a key got none, the
-- call is refused, and nothing stays reserved. hold.lua says what scores are.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local before = {}
local member, node, till = ARGV[1], tonumber(ARGV[2]), now + tonumber(ARGV[3])

-- What is held already is reserved, too: it may be given back at this moment.
local function reserve(key, cap)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now * 1000 + 999))
  local score = tonumber(redis.call('ZSCORE', key, member) or nil)
  if not score and redis.call('ZCARD', key) >= cap then return false end
  before[#before + 1] = { key, score }
  local latest = math.max(till, math.floor((score or 0) / 1000))
  redis.call('ZADD', key, string.format('%.0f', latest * 1000 + node), member)
  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  redis.call('PEXPIREAT', key, string.format('%.0f', math.floor(last[2] / 1000) + 60000))
  return true
end

local function undo()
  for step = #before, 1, -1 do
    local key, score = before[step][1], before[step][2]
    if score then
      redis.call('ZADD', key, string.format('%.0f', score), member)
    else
      redis.call('ZREM', key, member)
    end
  end
end

local place, answer, refused = 5, {}, false
for model = 1, tonumber(ARGV[4]) do
  local count, named, given = tonumber(ARGV[place]), tonumber(ARGV[place + 2]), {}
  local needed = ARGV[place + 1] == '1'
  place = place + 3
  for key = 1, named do
    local set = tonumber(ARGV[place])
    if #given < count and (set == 0 or reserve(KEYS[set], tonumber(ARGV[place + 1]))) then
      given[#given + 1] = key
    end
    place = place + 2
  end
  answer[model] = given
  refused = refused or (needed and #given == 0)
end
if refused then undo() end
return answer
