-- apply_verdict.lua: turn one offence into what is held against its subject: strike score, warning, factor or ban.
--
-- Atomic and idempotent: a repeat (same verdict key) is answered with the stored finding and changes nothing, so it may be
-- retried as often as needed. Everything that is written into the state, and the time when it expires, follows from the event
-- time and the state before, never from the clock: a replay ends in the same bytes. The clock only tells what is stale or
-- already over. detector/ladder.py is the specification.
--
-- KEYS[1]    abuse: what is held against the subject.
-- KEYS[2]    verdict: the finding of this verdict.
-- ARGV[1]    subject: kind=value.
-- ARGV[2]    verdict_id.
-- ARGV[3]    rule: name of the rule.
-- ARGV[4]    scope: globs of the actions that a ban refuses, with a space between.
-- ARGV[5]    at_ms: event time of the offence, milliseconds since the epoch.
-- ARGV[6]    start: number of the rule's first rung, from 1.
-- ARGV[7]    mode: enforce or shadow.
-- ARGV[8]    half_life_ms: after this time half the score is left.
-- ARGV[9]    keep_ms: how long findings are kept; offences that are older are refused.
-- ARGV[10]   channel: where the new state is published.
-- ARGV[11]   now_ms: time to use instead of the server's, milliseconds since the epoch; empty in production.
-- ARGV[12]   jitter: by up to so much, per mille of its duration, a ban ends sooner; how much follows from the first 4
--            hexadecimal digits of verdict_id.
-- ARGV[...]  for each rung of the ladder, 3 values: penalty (warn, tighten, ban), duration_ms, factor in per mille.
--
-- Returns { finding, state, is_repeat }: the finding (detector.ladder.Finding) and the subject's state as it is now
-- (topics.events.AbuseState; empty when there is none), both JSON; is_repeat is 1 when the finding was stored before.
--
-- Key types: both strings, JSON.

-- @include abuse_state

local STRIKE = 1000

local call, floor, format, max, min = redis.call, math.floor, string.format, math.max, math.min

local abuse_key, verdict_key = KEYS[1], KEYS[2]
local subject, verdict_id, rule, scope_text = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local at_ms, start, mode = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local half_life_ms, keep_ms, channel = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10]
local now_ms = tonumber(ARGV[11])
local jitter = tonumber(ARGV[12])
local first_rung_arg = 13
local rungs = (#ARGV - first_rung_arg + 1) / 3

local raw = call('GET', abuse_key)
local stored = call('GET', verdict_key)
if stored then
  return { stored, raw or '', 1 }
end
if not now_ms then
  local time = call('TIME')
  now_ms = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
end

local scope = split_scope(scope_text)
local state = read_state(raw)

local function decay(score, elapsed_ms)
  if elapsed_ms <= 0 then
    return score
  end
  local halvings = floor(elapsed_ms / half_life_ms)
  local rest_ms = elapsed_ms - halvings * half_life_ms
  if halvings > 50 then
    return 0
  end
  score = floor(score / 2 ^ halvings)
  return score - floor((score - floor(score / 2)) * rest_ms / half_life_ms)
end

local finding = {
  result = '', penalty = 'none', rung = 0, level = 0, score_before = 0, score_after = 0, until_ms = 0, factor = 1000, rev = 0,
}

local function write_finding()
  return format('{"result":"%s","penalty":"%s","rung":%.0f,"level":%.0f,"score_before":%.0f,"score_after":%.0f,'
    .. '"until_ms":%.0f,"factor":%.0f,"rev":%.0f,"applied_at_ms":%.0f}',
    finding.result, finding.penalty, finding.rung, finding.level, finding.score_before, finding.score_after,
    finding.until_ms, finding.factor, finding.rev, now_ms)
end

if at_ms + keep_ms <= now_ms then
  finding.result = 'stale' -- nothing is stored: it can only get older
  return { write_finding(), raw or '', 0 }
end

local function answer(new_state)
  local text = write_finding()
  call('SET', verdict_key, text, 'PXAT', format('%.0f', at_ms + keep_ms))
  return { text, new_state or raw or '', 0 }
end

local before = decay(state.score, at_ms - state.score_at_ms)
finding.level, finding.score_before, finding.score_after = state.level, before, before

if at_ms < state.human_at_ms then
  finding.result = 'overruled'
  return answer()
end

local kept = {} -- bans that are not over at the time of the offence
for _, ban in ipairs(state.bans) do
  if ban.until_ms > at_ms then
    if covers(ban.scope, scope) then
      finding.result = 'during_ban'
      return answer()
    end
    kept[#kept + 1] = ban
  end
end

local rung = min(start + floor((before + STRIKE / 2) / STRIKE), rungs)
local rung_arg = first_rung_arg + (rung - 1) * 3
local penalty, duration_ms, factor = ARGV[rung_arg], tonumber(ARGV[rung_arg + 1]), tonumber(ARGV[rung_arg + 2])
local until_ms = at_ms + duration_ms
if penalty == 'ban' and jitter > 0 then
  until_ms = until_ms - floor(floor(duration_ms * jitter / 1000) * tonumber(verdict_id:sub(1, 4), 16) / 65536)
end
finding.penalty, finding.rung, finding.until_ms, finding.factor = penalty, rung, until_ms, factor

if mode == 'shadow' then
  finding.result = 'shadow'
  return answer()
end

state.rev = raw and state.rev + 1 or at_ms -- readers keep the highest, so a state that comes back must not start at 1
state.score = max(before, min(before + STRIKE, rungs * STRIKE))
state.score_at_ms = max(state.score_at_ms, penalty == 'ban' and until_ms or at_ms)
state.half_life_ms = half_life_ms
state.level = max(rung, before > 0 and state.level or 0)
state.offences = state.offences + 1
state.bans = kept
if penalty == 'warn' then
  state.warn_until_ms, state.warn_rule, state.warn_verdict = until_ms, rule, verdict_id
elseif penalty == 'tighten' then
  if state.factor_until_ms > at_ms then
    factor = min(factor, state.factor)
  end
  state.factor, state.factor_until_ms, state.factor_verdict = factor, max(until_ms, state.factor_until_ms), verdict_id
  finding.factor = factor
else
  local ban = { until_ms = until_ms, level = rung, rule = rule, verdict_id = verdict_id, scope = scope }
  state.bans = add_ban(kept, ban, at_ms)
end
finding.result = until_ms <= now_ms and 'already_over' or 'applied'
finding.level, finding.score_after, finding.rev = state.level, state.score, state.rev

local expires_at_ms, left = state.score_at_ms, state.score
while left > 0 do
  left = floor(left / 2)
  expires_at_ms = expires_at_ms + half_life_ms
end
expires_at_ms = max(expires_at_ms, state.human_at_ms, state.factor_until_ms, state.warn_until_ms)
for _, ban in ipairs(state.bans) do
  expires_at_ms = max(expires_at_ms, ban.until_ms)
end

return answer(put_state(abuse_key, subject, state, expires_at_ms + keep_ms, channel))
