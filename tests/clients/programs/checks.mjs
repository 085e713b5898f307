// Runs checks by name and prints what became of them as JSON.
export const [URL, MODEL] = process.argv.slice(2);
export const ASK = [
  { role: "user", content: "There are 5 boxes with 20 apples in each box. How many apples are there?" },
];

export async function run(checks) {
  const found = [];
  for (const [check, act] of Object.entries(checks)) {
    try {
      await act((holds) => {
        if (!holds) throw new Error("does not hold");
      });
      found.push({ check, outcome: "passed", why: "" });
    } catch (error) {
      found.push({ check, outcome: "failed", why: String(error).slice(0, 500) });
    }
  }
  console.log(JSON.stringify(found));
}
