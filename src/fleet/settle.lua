-- What becomes of leave that was given. It changes only what bears this id, so that it does no harm however late it comes.
--
-- KEYS: 1 down, 2 budget, 3 done, 4 gone (see redis.rs).
-- ARGV: 1 id, 2 peer, 3 field of the done-mark, 4 "keep", "clear" or "leave", 5 refund, 6 over (each "yes" or "no"),
--       7 how long a mark is kept, 8 how long what was given back is remembered; in ms.
local function mine(record)
  return record and string.match(record, "^%d+ %d+ (%S+) ") == ARGV[1]
end
if ARGV[6] == "yes" and mine(redis.call("hget", KEYS[1], ARGV[2])) then
  redis.call("hdel", KEYS[1], ARGV[2])
end
local mark = redis.call("hget", KEYS[3], ARGV[3])
if mine(mark) and ARGV[4] == "clear" then
  redis.call("hdel", KEYS[3], ARGV[3])
elseif mine(mark) and ARGV[4] == "keep" then
  local time = redis.call("time")
  local ends = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[7])
  redis.call("hset", KEYS[3], ARGV[3], string.format("%.0f", ends) .. string.match(mark, "^%d+( .*)$"))
  redis.call("pexpire", KEYS[3], ARGV[7])
end
if ARGV[5] == "yes" then
  redis.call("hdel", KEYS[2], ARGV[1])
  redis.call("set", KEYS[4], "1", "PX", ARGV[8])
end
return 1
