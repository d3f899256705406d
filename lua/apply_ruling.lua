-- apply_ruling.lua: change what is held against a subject as a person decided: ban, lift or forgive.
--
-- Atomic and idempotent: a repeat (same verdict key) is answered with what came of it the first time and changes nothing, so it
-- may be retried as often as needed. The person decides at the server's time, and from then on verdicts about earlier offences
-- are overruled (apply_verdict.lua). enforcer/admin/ruling.py is the specification.
--
-- KEYS[1]    abuse: what is held against the subject.
-- KEYS[2]    verdict: what came of this ruling.
-- ARGV[1]    subject: kind=value.
-- ARGV[2]    verdict_id.
-- ARGV[3]    penalty: ban, lift or forgive.
-- ARGV[4]    scope: globs of the actions that a ban refuses, with a space between.
-- ARGV[5]    duration_ms: of a ban.
-- ARGV[6]    digest: of all that the person asked for.
-- ARGV[7]    keep_ms: how long the answer is kept, and the state after all in it is over.
-- ARGV[8]    channel: where the new state is published.
-- ARGV[9]    now_ms: time to use instead of the server's, milliseconds since the epoch; empty in production.
--
-- Fails with REQUEST when another digest is stored under the verdict key.
-- Returns { finding, state, is_repeat }: what came of it (enforcer.admin.ruling.Finding) and the subject's state as it is now
-- (topics.events.AbuseState; empty when it is forgotten by now), both JSON; is_repeat is 1 when it was stored before.
--
-- Key types: both strings, JSON.

-- @include abuse_state

local call, floor, format, max, min = redis.call, math.floor, string.format, math.max, math.min

local abuse_key, verdict_key = KEYS[1], KEYS[2]
local subject, verdict_id, penalty, scope_text = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local duration_ms, digest, keep_ms, channel = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]), ARGV[8]
local now_ms = tonumber(ARGV[9])

local raw = call('GET', abuse_key)
local stored = call('GET', verdict_key)
if stored then
  if cjson.decode(stored).digest ~= digest then
    return redis.error_reply('REQUEST this request id was used for another change')
  end
  return { stored, raw or '', 1 }
end
if not now_ms then
  local time = call('TIME')
  now_ms = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
end

local state = read_state(raw)
local expires_at_ms = call('PEXPIRETIME', abuse_key)

local score, score_at_ms, until_ms = state.score, state.score_at_ms, 0

state.rev = raw and state.rev + 1 or now_ms -- readers keep the highest, so a state that comes back must not start at 1
state.human_at_ms = max(state.human_at_ms, now_ms)
if penalty == 'ban' then
  until_ms = now_ms + duration_ms
  local ban = { until_ms = until_ms, level = 0, rule = '', verdict_id = verdict_id, scope = split_scope(scope_text) }
  state.bans = add_ban(state.bans, ban, now_ms)
elseif penalty == 'lift' then
  state.bans = {}
  state.score_at_ms = min(state.score_at_ms, now_ms) -- a score decays from the end of the last ban, and that is now
else
  state.score, state.level = 0, 0
  state.factor, state.factor_until_ms, state.factor_verdict = 1000, 0, ''
  state.warn_until_ms, state.warn_rule, state.warn_verdict = 0, '', ''
end

local finding = format('{"digest":"%s","at_ms":%.0f,"until_ms":%.0f,"rev":%.0f,"level":%.0f,"score":%.0f,"score_at_ms":%.0f,'
  .. '"half_life_ms":%.0f}',
  digest, now_ms, until_ms, state.rev, state.level, score, score_at_ms, state.half_life_ms)
call('SET', verdict_key, finding, 'PXAT', format('%.0f', now_ms + keep_ms))
local ends_at_ms = max(expires_at_ms, state.human_at_ms + keep_ms, until_ms + keep_ms)
return { finding, put_state(abuse_key, subject, state, ends_at_ms, channel), 0 }
