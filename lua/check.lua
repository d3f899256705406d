-- check.lua: decide many checks, each atomically: bans, then the throttle factor, then refill and take, all or nothing.
--
-- Atomic: each check, and the whole call on one server. A refused check changes no bucket, save the level at factor 1.
-- A check that fails (a key of a wrong type, no memory left) fails alone, before it has written anything.
-- Repeating a call spends again: never retry it, except after NOSCRIPT, which has no effect.
--
-- KEYS[...]  for each check in turn: the abuse keys of its subjects, then the bucket keys of its limits.
-- ARGV[1]    now_us: time to use instead of the server's, microseconds since the epoch; empty in production.
-- ARGV[2]    deadline_us: past this time of the server nothing is taken and no check is answered; 0 for none.
-- ARGV[3]    terms_count: how many terms follow.
-- ARGV[...]  for each terms, 6 values:
--              capacity_units  tokens x period_ticks, below 2^53
--              refill          units that one tick adds
--              period_ticks    units that one token is
--              tick_us         microseconds in a tick: 1 or 1000
--              tag             the terms as a bucket carries them: "generation:capacity:refill/period", capacity in tokens,
--                              left out where it is the refill; a period in ms is counted in ticks of a millisecond
--              since_us        when the terms came into force, microseconds since the epoch
-- ARGV[...]  shapes_count, and for each shape, which many checks may share:
--              action          text that the scopes of bans are matched with
--              cost            tokens; 0 reads and changes nothing, below 0 gives back: a refund, which neither a ban nor
--                              a limit refuses and which fills no bucket above its capacity; where the limits differ,
--                              the cost of each, the first limit first, joined by commas
--              factor          of the action, per mille; below 0 the action is open: whatever takes tokens is refused, and
--                              the limits go by this factor all the same
--              subjects        number of subjects
--              limits          number of limits, and for each the index of its terms, negative in shadow mode
-- ARGV[...]  for each check the index of its shape.
--
-- A bucket that carries other terms is brought over: time before since_us counts at its own rate, then the fill ratio is kept, and
-- it is written even when the check is refused, unless the cost is 0. When its generation is above the caller's the caller is
-- behind: then the bucket's own terms decide. A bucket that carries no terms counts as new.
--
-- Returns { now_us, result, ... }, one result for each check, or { now_us } when the deadline had passed:
--   allowed, refused      { 0 | 1 limit | 2 throttled | 3 open, factor, refused, refused_at_1, level..., [warning] }
--                         refused, refused_at_1: sums of 2^(i-1) of the limits with too few tokens, at the factor in force
--                         and at factor 1, beyond 48 limits (a number holds no more) as text of 0 and 1, the first limit first; level: units left in each bucket, those of the caller's terms; warning: until_ms, rule, verdict_id, subject index
--   banned                { 4, until_ms, level, rule, verdict_id, subject index, scope }
--   failed                { 5, error text }
--
-- Key types: abuse:{subject} string, JSON (topics.events.AbuseState). rate_limit:{subject}:policy:limit string,
-- "level time_ticks tag" or, while a factor lowers the limit, "level time_ticks tag level_at_1 remainder"
-- (remainder: thousandths of a tick that are not yet credited).

local MOST_BITS = 48
local ALLOW, LIMIT, THROTTLED, OPEN, BAN, FAILED = 0, 1, 2, 3, 4, 5
local UNLOWERED = 1000
local SHARES = 1048576 -- parts that a fill ratio is counted in: about a millionth each
local LARGEST_EXACT = 9007199254740991
local UNIT_TICKS = { us = 1, s = 1000000, m = 60000000, h = 3600000000, d = 86400000000, ms = 1 }

local call, floor, ceil, max, min, abs = redis.call, math.floor, math.ceil, math.max, math.min, math.abs
local match, gmatch, format, tonumber = string.match, string.gmatch, string.format, tonumber
local KEYS, ARGV = KEYS, ARGV

local now_us = tonumber(ARGV[1])
if not now_us then
  local time = call('TIME')
  now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local deadline_us = tonumber(ARGV[2])
if deadline_us > 0 and now_us > deadline_us then
  return { now_us }
end
local now_ms = floor(now_us / 1000)

local all_terms, next_arg = {}, 4
for i = 1, tonumber(ARGV[3]) do
  local tick_us = tonumber(ARGV[next_arg + 3])
  all_terms[i] = {
    capacity = tonumber(ARGV[next_arg]),
    refill = tonumber(ARGV[next_arg + 1]),
    period = tonumber(ARGV[next_arg + 2]),
    ticks_per_ms = 1000 / tick_us,
    tag = ARGV[next_arg + 4],
    since_us = ARGV[next_arg + 5],
    tick_us = tick_us,
    now = floor(now_us / tick_us),
  }
  all_terms[i].now_and_tag = format('%.0f %s', all_terms[i].now, all_terms[i].tag)
  next_arg = next_arg + 6
end

-- Whether limits of different costs give back and none takes.
local function is_refund(limits)
  local gives = false
  for i = 1, #limits do
    if limits[i].cost > 0 then
      return false
    end
    gives = gives or limits[i].cost < 0
  end
  return gives
end

local shapes = {}
next_arg = next_arg + 1
for i = 1, tonumber(ARGV[next_arg - 1]) do
  local costs = ARGV[next_arg + 1]
  local cost = tonumber(costs)
  local next_cost = not cost and gmatch(costs, '[^,]+')
  local factor = tonumber(ARGV[next_arg + 2])
  local shape = {
    action = ARGV[next_arg],
    is_refund = cost and cost < 0,
    factor = abs(factor),
    is_open = factor < 0,
    subjects = tonumber(ARGV[next_arg + 3]),
    limits = tonumber(ARGV[next_arg + 4]),
  }
  for j = 1, shape.limits do
    local index = tonumber(ARGV[next_arg + 4 + j])
    local terms = all_terms[index < 0 and -index or index]
    local tokens = cost or tonumber(next_cost())
    shape[j] = { terms = terms, is_shadow = index < 0, tokens = tokens, cost = tokens * terms.period }
  end
  if not cost then
    shape.is_refund = is_refund(shape)
  end
  shapes[i] = shape
  next_arg = next_arg + 5 + shape.limits
end

-- units x factor / 1000, rounded down, without passing 2^53 on the way.
local function scale(units, factor)
  local thousands = floor(units / 1000)
  return thousands * factor + floor((units - thousands * 1000) * factor / 1000)
end

local function covers(scope, action)
  for i = 1, #scope do
    local glob = scope[i]
    if glob == '*' or glob == action then
      return true
    end
    local pattern = glob:gsub('[%^%$%(%)%%%.%[%]%+%-%?]', '%%%0'):gsub('%*', '.*')
    if match(action, '^' .. pattern .. '$') then
      return true
    end
  end
  return false
end

-- What stands against the subjects: the longest ban that covers the action, the product of the factors, a warning.
local function judge(first_key, subjects, action, factor)
  local ban, warning
  for i = 1, subjects do
    local raw = call('GET', KEYS[first_key + i - 1])
    if raw then
      local state = cjson.decode(raw)
      for _, candidate in ipairs(state.bans or {}) do
        if candidate.until_ms > now_ms and covers(candidate.scope, action) and (not ban or candidate.until_ms > ban[2]) then
          ban = { BAN, candidate.until_ms, candidate.level, candidate.rule, candidate.verdict_id, i,
                  table.concat(candidate.scope, ',') }
        end
      end
      if (state.factor_until_ms or 0) > now_ms then
        factor = max(1, floor(factor * state.factor / UNLOWERED))
      end
      if (state.warn_until_ms or 0) > now_ms then
        warning = { state.warn_until_ms, state.warn_rule, state.warn_verdict, i }
      end
    end
  end
  return ban, factor, warning
end

-- The capacity at a factor, never below what a check asks for.
local function lower(capacity, factor, cost)
  return min(capacity, max(scale(capacity, factor), abs(cost)))
end

-- Terms that a bucket carries, or nil.
local function parse_terms(tag)
  local generation, capacity, refill, count, unit = match(tag, '^(%d+):(%d+):(%d+)/(%d+)(%l+)$')
  if not generation then
    generation, refill, count, unit = match(tag, '^(%d+):(%d+)/(%d+)(%l+)$')
    capacity = refill
  end
  if not UNIT_TICKS[unit or ''] then
    return nil
  end
  local period, tick_us = tonumber(count) * UNIT_TICKS[unit], unit == 'ms' and 1000 or 1
  capacity, refill = tonumber(capacity) * period, tonumber(refill)
  if capacity == 0 or refill == 0 or capacity > LARGEST_EXACT then
    return nil
  end
  local now = floor(now_us / tick_us)
  return {
    generation = tonumber(generation), capacity = capacity, refill = refill, period = period, tick_us = tick_us,
    ticks_per_ms = 1000 / tick_us, tag = tag, now = now, now_and_tag = format('%.0f %s', now, tag),
  }
end

-- The part of new_whole that units are of whole, rounded down, without passing 2^53 on the way; exact for multiples of the whole.
local function rescale(units, whole, new_whole)
  if whole == new_whole then
    return units
  end
  local wholes = floor(units / whole)
  local rest, share = units - wholes * whole, 0
  local left = SHARES
  while left > 1 do
    rest, share, left = rest * 2, share * 2, left / 2
    if rest >= whole then
      rest, share = rest - whole, share + 1
    end
  end
  local parts = floor(new_whole / SHARES)
  return wholes * new_whole + parts * share + floor((new_whole - parts * SHARES) * share / SHARES)
end

local refill

-- One bucket that carries other terms than the limit's: see the header.
local function refill_other(bucket, raw, limit, factor, carried)
  local terms = limit.terms
  local cost = limit.tokens * carried.period
  if carried.generation > tonumber(match(terms.tag, '^%d+')) then
    refill(bucket, raw, { terms = carried, cost = cost }, factor)
    return
  end
  carried.now = floor(min(now_us, tonumber(terms.since_us)) / carried.tick_us)
  refill(bucket, raw, { terms = carried, cost = cost }, factor)
  local level = rescale(bucket.level, carried.capacity, terms.capacity)
  local at_1 = bucket.at_1 and rescale(bucket.at_1, carried.capacity, terms.capacity) or level
  local time = ceil(bucket.time * carried.tick_us / terms.tick_us)
  local remainder = carried.tick_us == terms.tick_us and bucket.remainder or 0
  refill(bucket, format('%.0f %.0f %s %.0f %.0f', level, time, terms.tag, at_1, remainder), limit, factor)
  bucket.is_brought_over = true
end

-- One bucket as it is now, put into ``bucket``: its level at the factor, its level at factor 1 (false while they are the same),
-- the remainder, and the terms and the cost that it is decided by.
function refill(bucket, raw, limit, factor)
  local terms, cost = limit.terms, limit.cost
  local level, time, tag, level_at_1, remainder
  if raw then
    level, time, tag = match(raw, '^(%d+) (%d+) (%S+)$')
    if not level then
      level, time, tag, level_at_1, remainder = match(raw, '^(%d+) (%d+) (%S+) (%d+) (%d+)$')
    end
  end
  if tag and tag ~= terms.tag then
    local carried = parse_terms(tag)
    if carried then
      refill_other(bucket, raw, limit, factor, carried)
      return
    end
    tag = nil
  end
  bucket.terms, bucket.cost, bucket.is_brought_over = terms, cost, false
  local capacity, now = terms.capacity, terms.now
  if factor < UNLOWERED then
    capacity = lower(capacity, factor, cost)
  end
  if not tag then
    bucket.level, bucket.time, bucket.remainder = capacity, now, 0
    bucket.at_1 = factor < UNLOWERED and terms.capacity
    return
  end
  level, time = tonumber(level), tonumber(time)
  level_at_1, remainder = level_at_1 and tonumber(level_at_1), remainder and tonumber(remainder) or 0
  if factor < UNLOWERED and not level_at_1 then
    level_at_1 = level
  end
  local elapsed = now - time
  if elapsed <= 0 then
    elapsed = 0 -- a clock that steps back freezes the bucket
  else
    time = now
  end
  if level_at_1 then
    level_at_1 = min(terms.capacity, level_at_1 + min(elapsed, ceil((terms.capacity - level_at_1) / terms.refill)) * terms.refill)
  end
  if level >= capacity then
    level, remainder = capacity, 0
  else
    local to_full = ceil((capacity - level) / terms.refill)
    local credited = min(elapsed, ceil(to_full * UNLOWERED / factor)) * factor + remainder
    local ticks = floor(credited / UNLOWERED)
    if ticks >= to_full then
      level, remainder = capacity, 0
    else
      level, remainder = level + ticks * terms.refill, credited - ticks * UNLOWERED
    end
  end
  if factor == UNLOWERED and level_at_1 and level >= level_at_1 then
    level_at_1 = false -- nothing of an earlier factor is left to tell apart
  end
  bucket.level, bucket.time, bucket.at_1, bucket.remainder = level, time, level_at_1 or false, remainder
end

-- Puts a refund into a bucket, at most to its capacity; tells whether that changed it.
local function give_back(bucket, factor, gives, gives_at_1)
  local level, at_1, cost, capacity = bucket.level, bucket.at_1, bucket.cost, bucket.terms.capacity
  if gives then
    bucket.level = min(level - cost, lower(capacity, factor, cost))
  end
  if gives_at_1 then
    bucket.at_1 = min(at_1 - cost, capacity)
  end
  return bucket.level ~= level or bucket.at_1 ~= at_1
end

local function write(key, bucket, factor)
  local terms, level, at_1, remainder = bucket.terms, bucket.level, bucket.at_1, bucket.remainder
  local ticks = ceil(ceil((terms.capacity - level) / terms.refill) * UNLOWERED / factor)
  local value
  if at_1 or remainder > 0 then
    at_1 = at_1 or level
    ticks = max(ticks, ceil((terms.capacity - at_1) / terms.refill))
    value = format('%.0f %.0f %s %.0f %.0f', level, bucket.time, terms.tag, at_1, remainder)
  elseif bucket.time == terms.now then
    value = format('%.0f %s', level, terms.now_and_tag)
  else
    value = format('%.0f %.0f %s', level, bucket.time, terms.tag)
  end
  local expire_ms = max(1, ceil(ticks / terms.ticks_per_ms)) -- ticks * tick_us could pass 2^53
  call('SET', key, value, 'PX', expire_ms)
end

local function mark(buckets, limits, has)
  local marks = {}
  for i = 1, limits do
    marks[i] = buckets[i][has] and '0' or '1'
  end
  return table.concat(marks)
end

-- One for each limit of a check, used again by the next check.
local buckets = {}

local function check(shape, first_key)
  local limits = shape.limits
  local ban, factor, warning = judge(first_key, shape.subjects, shape.action, shape.factor)
  if ban and not shape.is_refund then
    return ban
  end

  local first_bucket = first_key + shape.subjects - 1
  local refused, refused_at_1, bit = 0, 0, 1
  local passes, passes_at_1 = not shape.is_open, true
  for i = 1, limits do
    local bucket = buckets[i]
    if not bucket then
      bucket = { level = 0, time = 0, at_1 = false, remainder = 0, has = false, has_at_1 = false }
      buckets[i] = bucket
    end
    local limit = shape[i]
    refill(bucket, call('GET', KEYS[first_bucket + i]), limit, factor)
    local cost = bucket.cost
    local has, has_at_1 = bucket.level >= cost, (bucket.at_1 or bucket.level) >= cost
    bucket.has, bucket.has_at_1 = has, has_at_1
    if not has then
      refused = refused + bit
      passes = passes and limit.is_shadow
    end
    if not has_at_1 then
      refused_at_1 = refused_at_1 + bit
      passes_at_1 = passes_at_1 and limit.is_shadow
    end
    bit = bit * 2
  end

  if limits > MOST_BITS then
    refused, refused_at_1 = mark(buckets, limits, 'has'), mark(buckets, limits, 'has_at_1')
  end
  local status = passes and ALLOW or (passes_at_1 and (shape.is_open and OPEN or THROTTLED) or LIMIT)
  local result = { status, factor, refused, refused_at_1 }
  for i = 1, limits do
    local bucket, terms = buckets[i], shape[i].terms
    local cost = bucket.cost
    local takes = passes and bucket.has
    local takes_at_1 = bucket.at_1 and passes_at_1 and bucket.has_at_1
    local is_changed
    if cost < 0 then
      is_changed = give_back(bucket, factor, takes, takes_at_1)
    else
      if takes then
        bucket.level = bucket.level - cost
      end
      if takes_at_1 then
        bucket.at_1 = bucket.at_1 - cost
      end
      is_changed = cost > 0 and (takes or takes_at_1)
    end
    if is_changed or (bucket.is_brought_over and cost ~= 0) then
      write(KEYS[first_bucket + i], bucket, factor)
    end
    local level = bucket.level
    if bucket.terms ~= terms then
      level = min(terms.capacity, rescale(level, bucket.terms.period, terms.period))
    end
    result[4 + i] = level
  end
  if warning then
    for i = 1, 4 do
      result[4 + limits + i] = warning[i]
    end
  end
  return result
end

local results, first_key = { now_us }, 1
for i = next_arg, #ARGV do
  local shape = shapes[tonumber(ARGV[i])]
  local ok, result = pcall(check, shape, first_key)
  if not ok then
    result = { FAILED, type(result) == 'table' and result.err or tostring(result) }
  end
  results[i - next_arg + 2] = result
  first_key = first_key + shape.subjects + shape.limits
end
return results
