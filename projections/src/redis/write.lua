-- Writes rows of one node and, with the last of them, its mark.
-- KEYS: node, keys, sessions. ARGV: seq, at, resume, offset, the seq that must
-- be there (or ?), ms to keep, channel, 1 for rows without their mark, the end
-- of the news, counts of keys, ended and live sessions, then these.
local stored = redis.call('HMGET', KEYS[1], 'seq', 'offset', 'keys_rows', 'sessions_rows')
local seq = tonumber(stored[1] or nil)
local function is_whole()
  return tonumber(stored[3] or nil) == redis.call('HLEN', KEYS[2])
    and tonumber(stored[4] or nil) == redis.call('HLEN', KEYS[3])
end
local expected = tonumber(ARGV[5])
if seq and seq >= tonumber(ARGV[1]) then return {'repeat', stored[1]} end
if stored[2] and stored[2] ~= ARGV[4] then return {'moved', stored[2]} end
if expected and (not seq or seq < expected) then return {'lost', stored[1] or ''} end
if seq and not is_whole() then return {'lost', stored[1]} end
-- When the server is full, this fails before anything has changed.
redis.call('HSET', KEYS[1], 'offset', ARGV[4])

local place = 13
local function write(key, command, count)
  while count > 0 do
    local some = math.min(count, 1000)
    redis.call(command, key, unpack(ARGV, place, place + some - 1))
    place = place + some
    count = count - some
  end
end
write(KEYS[2], 'HSET', 2 * tonumber(ARGV[10]))
write(KEYS[3], 'HDEL', tonumber(ARGV[11]))
write(KEYS[3], 'HSET', 2 * tonumber(ARGV[12]))
redis.call('HSET', KEYS[1], 'keys_rows', redis.call('HLEN', KEYS[2]),
  'sessions_rows', redis.call('HLEN', KEYS[3]))

local from = stored[1] or 'null'
if ARGV[8] ~= '1' then
  redis.call('PUBLISH', ARGV[7], '{"from":' .. from .. ',"to":' .. ARGV[1] .. ARGV[9])
  redis.call('HSET', KEYS[1], 'seq', ARGV[1], 'at', ARGV[2], 'resume', ARGV[3])
elseif seq then
  redis.call('PUBLISH', ARGV[7], '{"from":' .. from .. ',"to":' .. from .. ARGV[9])
end
-- What is new has no end yet; announcements put the end of all off.
for place = 1, 3 do
  if not seq or stored[place + 1] == '0' then redis.call('PEXPIRE', KEYS[place], ARGV[6]) end
end
return {'written', ARGV[1]}
