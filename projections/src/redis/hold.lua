-- Confirms, renews and ends holds. KEYS: a set of holders for each. ARGV: the
-- node's number; for each hold the session, until when (ms), or nothing when it
-- was given back, the number of the node that it came from (0: none), and 1
-- when a reservation of it is under way.
--
-- A score is until when, in ms, and three digits: the number of the node that
-- reserved it, or 500 more once it is held. Several nodes may speak of one
-- session, each in its own order, so no node ends what another one holds or
-- has reserved since: it only makes that as short as a reservation is.
local time = redis.call('TIME')
local short = time[1] * 1000 + math.floor(time[2] / 1000) + 10000
local node = tonumber(ARGV[1])

local function put(key, member, till, mark)
  redis.call('ZADD', key, string.format('%.0f', till * 1000 + mark), member)
  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  redis.call('PEXPIREAT', key, string.format('%.0f', math.floor(last[2] / 1000) + 60000))
end

local function give_back(key, member, held, mark, from, reserving)
  local own = mark == node or mark == node + 500
  local left = from > 0 and mark == from + 500
  if (own or left) and not reserving then
    redis.call('ZREM', key, member)
  elseif own then
    put(key, member, math.min(held, short), node)
  elseif mark < 500 and held > short then
    put(key, member, short, mark)
  end
end

for place = 1, #KEYS do
  local key, at = KEYS[place], 4 * place - 2
  local member, till, from = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local score = tonumber(redis.call('ZSCORE', key, member) or nil) or 0
  local held, mark = math.floor(score / 1000), score % 1000
  if not till then
    if score > 0 then give_back(key, member, held, mark, from, ARGV[at + 3] == '1') end
  elseif mark > 0 and mark < 500 and mark ~= node then
    put(key, member, math.max(held, till), mark)
  else
    put(key, member, till, node + 500)
  end
end
return #KEYS
