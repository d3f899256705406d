-- share_quota.lua: tell one enforcer its share of a limit that data planes spend.
--
-- Shares are millionths of the limit. Whoever asks for less than a fair share gets what it asks for; the others divide the rest
-- evenly (max-min fairness), and what nobody asks for is divided evenly too, so that all shares together are never more than
-- the limit. Others hear at once when theirs have changed. enforcer/envoy/quota.py is the specification.
--
-- Atomic. Repeating a call changes nothing but the time when the share ends. enforcer/envoy/quota.py is the specification.
--
-- KEYS[1]    shares: who has which share of one limit and subject.
-- ARGV[1]    member: the enforcer that asks.
-- ARGV[2]    demand: millionths of the limit that its data planes could use, >= 0.
-- ARGV[3]    quantum: least share that is of any use, millionths. Where a fair share is less, as many get it as can.
-- ARGV[4]    ttl_ms: how long the demand counts.
-- ARGV[5]    channel: where "member key" is published when the demand has notably changed, by more than a quarter.
-- ARGV[6]    now_ms: time to use instead of the server's, milliseconds since the epoch; empty in production.
--
-- Returns the share: millionths of the limit.
--
-- Key types: hash, member -> "demand until_ms".

local WHOLE = 1000000

local call, floor, format, max, min = redis.call, math.floor, string.format, math.max, math.min

local key, member, quantum = KEYS[1], ARGV[1], tonumber(ARGV[3])
local demand = max(tonumber(ARGV[2]), quantum)
local ttl_ms, channel, now_ms = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
if not now_ms then
  local time = call('TIME')
  now_ms = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
end

local demands, before, earlier = { demand }, 0, 0
local fields = call('HGETALL', key)
for i = 1, #fields, 2 do
  local its_demand, until_ms = fields[i + 1]:match('^(%d+) (%d+)$')
  its_demand = tonumber(its_demand)
  if tonumber(until_ms) <= now_ms then
    call('HDEL', key, fields[i])
  elseif fields[i] == member then
    before = its_demand
  else
    demands[#demands + 1] = its_demand
    earlier = earlier + (fields[i] < member and 1 or 0)
  end
end
call('HSET', key, member, format('%.0f %.0f', demand, now_ms + ttl_ms))
call('PEXPIRE', key, format('%.0f', ttl_ms))
if #demands > 1 and max(demand, before) * 3 > min(demand, before) * 4 then
  call('PUBLISH', channel, member .. ' ' .. key)
end

table.sort(demands)
local rest, share = WHOLE, nil
for i, wanted in ipairs(demands) do
  local fair = floor(rest / (#demands - i + 1))
  if wanted > fair then
    share = min(demand, fair)
    break
  end
  rest = rest - wanted
end
if quantum * #demands > WHOLE then
  return earlier < floor(WHOLE / quantum) and quantum or 0
end
return share or demand + floor(rest / #demands)
