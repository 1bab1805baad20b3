-- What becomes of leave that was given. It changes only what bears this id, so that it does no harm however late it comes.
--
-- KEYS: 1 down, 2 budget, 3 done, 4 gone, 5 next (see redis.rs).
-- ARGV: 1 id, 2 peer, 3 field of the done-mark, 4 "keep", "clear" or "leave", 5 refund, 6 over (each "yes" or "no"),
--       7 how long a mark is kept, 8 how long what was given back is remembered, in ms; 9 from when a mark is kept, by this
--       server's clock ("0": from now on), 10 the statement of a mark that is kept.
-- Answers: 1; 2, NOW (9 is not now).
local function mine(record)
  return record and string.match(record, "^%d+ %d+ (%S+) ") == ARGV[1]
end
local mark = redis.call("hget", KEYS[3], ARGV[3])
local keeps = mine(mark) and ARGV[4] == "keep"
local time = redis.call("time")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local from = tonumber(ARGV[9])
if from == 0 then from = now end
if keeps and math.abs(now - from) > 2000 then return {2, string.format("%.0f", now)} end

if ARGV[6] == "yes" and mine(redis.call("hget", KEYS[1], ARGV[2])) then
  redis.call("hdel", KEYS[1], ARGV[2])
end
if mine(mark) and ARGV[4] == "clear" then
  redis.call("hdel", KEYS[3], ARGV[3])
elseif keeps then
  local ends = string.format("%.0f", from + tonumber(ARGV[7]))
  redis.call("hset", KEYS[3], ARGV[3], ends .. string.match(mark, "^%d+( %d+ %S+ )") .. ARGV[10])
  redis.call("pexpire", KEYS[3], ARGV[7])
end
if ARGV[5] == "yes" then
  redis.call("hdel", KEYS[2], ARGV[1])
  -- Nobody was restarted, so nobody need keep a distance. (A time to live that is over: no permission for DEL is needed.)
  if mine(redis.call("get", KEYS[5])) then redis.call("pexpire", KEYS[5], "0") end
  redis.call("set", KEYS[4], "1", "PX", ARGV[8])
end
return 1
