#!/usr/bin/env bash
# `edgekd check` for a CI job: what action.yml and gitlab.yml both run. Settings come as environment variables:
#   EDGEKD_BUNDLE        a bundle, the folder of a compile, or a suite.toml
#   EDGEKD_BASELINE      an earlier one, or its report.json; empty for a suite
#   EDGEKD_OPTIONS       more options, separated by spaces: --tolerance 3% --allow bytes=2%
#   EDGEKD_INCONCLUSIVE  "fail" (default) or "warn": what a machine too noisy to tell does to the job
#   EDGEKD_OUT           folder for check.json, check.xml and check.md; default edgekd-check
set -euo pipefail

if [ -z "${EDGEKD_BUNDLE:-}" ]; then
    echo 'error: EDGEKD_BUNDLE names no bundle' >&2
    exit 2
fi
out=${EDGEKD_OUT:-edgekd-check}
mkdir -p "$out"
rm -f "$out"/check.json "$out"/check.xml "$out"/check.md

arguments=("$EDGEKD_BUNDLE")
if [ -n "${EDGEKD_BASELINE:-}" ]; then
    arguments+=(--baseline "$EDGEKD_BASELINE")
fi
read -r -a options <<<"${EDGEKD_OPTIONS:-}"

code=0
edgekd check "${arguments[@]}" ${options[@]+"${options[@]}"} \
    --json --junit "$out/check.xml" --markdown "$out/check.md" >"$out/check.json" || code=$?

verdicts=(pass regressed error inconclusive)
verdict=${verdicts[$code]:-error}
if [ -n "${GITHUB_OUTPUT:-}" ]; then
    echo "verdict=$verdict" >>"$GITHUB_OUTPUT"
fi
if [ -f "$out/check.md" ]; then
    if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
        cat "$out/check.md" >>"$GITHUB_STEP_SUMMARY"
    fi
    cat "$out/check.md"
fi
echo "edgekd check: $verdict" >&2
if [ "$code" = 3 ] && [ "${EDGEKD_INCONCLUSIVE:-fail}" = warn ]; then
    echo 'warning: the machine was too noisy to tell; the job goes on, as asked' >&2
    exit 0
fi
exit "$code"
