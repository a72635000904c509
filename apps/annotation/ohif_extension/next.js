// The page that opens a reader's next case in OHIF, or says why it cannot.
import { nextCase } from './server.js';

const status = document.querySelector('[role=status]');

try {
  const told = await nextCase();
  if (told?.address) {
    status.textContent = 'OHIF opens …';
    window.location.replace(told.address);
  } else {
    status.textContent = told ? `${told.title}: ${told.why}` : 'No case is left for you. Thank you.';
  }
} catch (error) {
  status.textContent = error.message;
}
