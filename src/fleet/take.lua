-- Leave for one restart, or who or what is in the way, in one step.
--
-- KEYS: 1 token, 2 next, 3 down, 4 known, 5 budget, 6 done, 7 gone (see redis.rs).
-- ARGV: 1 id (BOOT.NUMBER), 2 peer, 3 field of the done-mark, 4 statement, 5 lasting, 6 budget count, 7 budget window,
--       8 spacing, 9 down percent, 10 peers known here, 11 "take" or "look", 12 how long a token is remembered; times in ms;
--       13 from when all that lasts, by this server's clock ("0": from now on), 14... records that the node disbelieves.
-- Answers: 1, TOKEN (and, if it had landed before, the record that says so); 0, WHY, MS, and the records that say so, each
--          after its field; 2, NOW (13 is not now).
-- A record is "UNTIL TOKEN ID STATEMENT"; what is not one is somebody else's doing, and counts for nothing.
local id, peer, field = ARGV[1], ARGV[2], ARGV[3]
local lasting, window, spacing = tonumber(ARGV[5]), tonumber(ARGV[7]), tonumber(ARGV[8])
local time = redis.call("time")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local disbelieved = {}
for i = 14, #ARGV do disbelieved[ARGV[i]] = true end

local function read(record)
  if not record or #record > 4096 or disbelieved[record] then return nil end
  local ends, token, whose = string.match(record, "^(%d+) (%d+) (%S+) ")
  ends = tonumber(ends)
  -- Nothing of ours lasts longer than a month.
  if ends and ends > now and ends < now + 2764800000 then return ends, whose, token end
  return nil
end
local function owner(whose) return string.match(whose, "^(.*)%.") end
-- (As many records as fit into an answer that is read. What the node has proven forged goes, also where leave is refused:
-- else more of it than a node asks about in one go would refuse for as long as it lasts. Who only looks writes nothing.)
local forged = {}
local function no(why, ends, records)
  if ARGV[11] == "take" then
    for _, what in ipairs(forged) do redis.call("hdel", what[1], what[2]) end
  end
  local answer = {0, why, string.format("%.0f", ends - now)}
  for i = 1, math.min(#records, 96) do answer[#answer + 1] = records[i] end
  return answer
end

-- It was given back before it was taken: the network had kept it.
if redis.call("get", KEYS[7]) then return {0, "gone", "0"} end
-- It had landed, and only the answer was lost.
local mark = redis.call("hget", KEYS[6], field)
local mark_ends, mark_whose, mark_token = read(mark)
if mark_whose == id then return {1, mark_token, field, mark} end

local slot = redis.call("hget", KEYS[3], peer)
local slot_ends, slot_whose = read(slot)
if slot_ends and owner(slot_whose) ~= owner(id) then return no("healing", slot_ends, {peer, slot}) end
if mark_ends and owner(mark_whose) ~= owner(id) then return no("done", mark_ends, {field, mark}) end

-- What is over, in pairs of a key and a field.
local over = {}
local function live(key, each)
  local all = redis.call("hgetall", key)
  for i = 1, #all, 2 do
    if disbelieved[all[i + 1]] then forged[#forged + 1] = {key, all[i]} end
    local ends = #all[i] <= 512 and read(all[i + 1])
    if ends then each(all[i], ends, all[i + 1]) else over[#over + 1] = {key, all[i]} end
  end
end

local spent, free, entries = 0, nil, {}
live(KEYS[5], function(entry, ends, record)
  spent = spent + 1
  if not free or ends < free then free = ends end
  entries[#entries + 1] = entry
  entries[#entries + 1] = record
end)
if spent >= tonumber(ARGV[6]) then return no("spent", free or now + window, entries) end

local next_record = redis.call("get", KEYS[2])
local next_ends = read(next_record)
if next_ends then return no("spacing", next_ends, {"next", next_record}) end

local others, first, down = 0, nil, {}
live(KEYS[3], function(who, ends, record)
  if who ~= peer then
    others = others + 1
    if not first or ends < first then first = ends end
    down[#down + 1] = who
    down[#down + 1] = record
  end
end)
local known = redis.call("zcount", KEYS[4], now, "+inf")
if not redis.call("zscore", KEYS[4], peer) then known = known + 1 end
known = math.max(known, tonumber(ARGV[10]))
if others >= math.max(1, math.floor(known * tonumber(ARGV[9]) / 100)) then
  return no("down", first, down)
end
if ARGV[11] ~= "take" then return {1, "0"} end

local from = tonumber(ARGV[13])
if from == 0 then from = now end
if math.abs(now - from) > 2000 then return {2, string.format("%.0f", now)} end
local before = redis.call("get", KEYS[1]) or "0"
-- (Lua takes "nan", "inf" and "0x1p9" for numbers, and counts exactly up to 2^53.)
if not string.match(before, "^%d+$") or #before > 16 or tonumber(before) >= 9000000000000000 then
  return redis.error_reply("FENCE " .. KEYS[1] .. " holds no fencing token of defib's: delete it")
end
local token = string.format("%.0f", math.max(tonumber(before) + 1, time[1] * 1000000 + time[2]))
local function record(ms) return string.format("%.0f", from + ms) .. " " .. token .. " " .. id .. " " .. ARGV[4] end
local function lasts(key, ms)
  if redis.call("pttl", key) < ms then redis.call("pexpire", key, string.format("%.0f", ms)) end
end
-- Marks of lives that are long gone. (Only those of this peer: whoever is not healed any more leaves a key that ends.)
live(KEYS[6], function() end)
-- First of all writes: this one is refused where there is no memory left, and then nothing is written.
redis.call("set", KEYS[1], token, "PX", ARGV[12])
for _, what in ipairs(over) do redis.call("hdel", what[1], what[2]) end
redis.call("zremrangebyscore", KEYS[4], "-inf", now)
redis.call("zadd", KEYS[4], now + 3600000, peer)
lasts(KEYS[4], 3600000)
redis.call("hset", KEYS[6], field, record(lasting))
lasts(KEYS[6], lasting)
redis.call("hset", KEYS[5], id, record(window))
lasts(KEYS[5], window)
redis.call("hset", KEYS[3], peer, record(lasting))
lasts(KEYS[3], lasting)
if spacing > 0 then redis.call("set", KEYS[2], record(spacing), "PX", ARGV[8]) end
return {1, token}
